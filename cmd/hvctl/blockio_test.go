package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// readThrottles parses flags as run does, or update.
func readThrottles(t *testing.T, lift bool, args ...string) (b *specs.LinuxBlockIO, err error) {
	t.Helper()
	app := &cli.App{Flags: throttleFlags(""), Action: func(c *cli.Context) error {
		b, err = throttles(c, lift)
		return nil
	}}
	if e := app.Run(append([]string{"run"}, args...)); e != nil {
		t.Fatal(e)
	}
	return b, err
}

func TestBadDeviceRatesAreNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ flag, value, want string }{
		{"device-read-bps", "/dev/sda", "such as /dev/sda:10M"},
		{"device-read-bps", ":10M", "such as /dev/sda:10M"},
		{"device-read-bps", "/dev/sda:", "such as /dev/sda:10M"},
		{"device-write-bps", "/dev/sda:lots", `size "lots"`},
		{"device-read-iops", "/dev/sda:1M", `"1M" is no number of operations`},
		{"device-write-iops", "/dev/sda:0", "above 0"},
		{"device-write-iops", "/no/such:5", "/no/such"},
		{"device-write-iops", "/dev/null:5", "/dev/null is no block device"},
		{"device-write-bps", file + ":5", "is no block device"},
	} {
		_, err := readThrottles(t, false, "--"+c.flag, c.value)
		if err == nil || !strings.Contains(err.Error(), "--"+c.flag+" "+c.value) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("--%s %s: %v", c.flag, c.value, err)
		}
	}
	if b, err := readThrottles(t, false); b != nil || err != nil {
		t.Errorf("nothing given: %+v, %v", b, err)
	}
}

func TestDeviceRatesAreThoseOfTheDevice(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dev := filepath.Join(t.TempDir(), "a:b") // the rate is after the last colon
	if err := unix.Mknod(dev, unix.S_IFBLK|0o600, int(unix.Mkdev(240, 7))); err != nil {
		t.Fatal(err)
	}
	b, err := readThrottles(t, true, "--device-read-bps", dev+":1M", "--device-write-iops", dev+":0")
	if err != nil {
		t.Fatal(err)
	}
	for rate, list := range map[uint64][]specs.LinuxThrottleDevice{1 << 20: b.ThrottleReadBpsDevice, 0: b.ThrottleWriteIOPSDevice} {
		if len(list) != 1 || list[0].Major != 240 || list[0].Minor != 7 || list[0].Rate != rate {
			t.Errorf("rate %d: %+v", rate, list)
		}
	}
	if err := (workload.Update{BlockIO: b}).Check(); err != nil {
		t.Error(err)
	}
	if _, err := readThrottles(t, false, "--device-read-bps", dev+":1M", "--device-read-bps", dev+":2M"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("two rates: %v", err)
	}
}
