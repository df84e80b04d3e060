package machine

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/virtio"
)

// TestALinuxGuestGoesOnInAnotherMachine moves a guest that keeps a hash chain in
// memory and a log on disk from machine to machine. Neither may lose or repeat
// a link, its clock may not go back, and its kernel may not complain.
func TestALinuxGuestGoesOnInAnotherMachine(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	for _, tc := range []struct {
		kernel    string
		transport Transport
		cpus      int
		reseeds   string // times its kernel says that it was forked; "": it has no driver for that
	}{
		{"minimal", MMIO, 1, "1"},
		{"minimal", PCI, 2, "1"},
		{"cloud", PCI, 1, ""},
		{"generic", MMIO, 1, "1"},
	} {
		t.Run(fmt.Sprintf("%s %s %d CPUs", tc.kernel, tc.transport, tc.cpus), func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(disk, make([]byte, 8<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			c := Config{
				CPUs: tc.cpus, MemoryBytes: 256 << 20, Transport: tc.transport,
				Devices: []Device{
					{Kind: "rng", Args: virtio.Args{ID: "rng0"}},
					{Kind: "blk", Args: virtio.Args{ID: "disk0", Values: map[string]string{"path": disk, "serial": "d0"}}},
					{Kind: "vsock", Args: virtio.Args{ID: "vsock"}},
				},
			}
			g := bootLinux(t, linux{kernel: tc.kernel, mode: "chain", modules: stock, Config: c})
			for hop := range 3 {
				from := len(g.said("tick"))
				for i := from + 1; i <= from+5; i++ {
					g.wait("tick", strconv.Itoa(i))
				}
				g.move(c, hop == 1)
			}
			g.Input([]byte("stop\n"))
			if end := g.end(); end.Reason != PowerOff {
				t.Errorf("Run: %v", end)
			}
			for _, key := range []string{"chain", "log"} {
				if got := g.said(key); len(got) != 1 || got[0] != fmt.Sprint(len(g.said("tick"))) {
					t.Errorf("%s: %q of %d links", key, got, len(g.said("tick")))
				}
			}
			if got := g.said("reseeds"); tc.reseeds != "" && (len(got) != 1 || got[0] != tc.reseeds) {
				t.Errorf("its kernel was told %q times that it is a copy, want %s", got, tc.reseeds)
			}
			t.Logf("largest gap in ms %q, clock source %q", g.said("gap"), g.said("clock"))
		})
	}
}

// move ends the guest's machine and goes on in another.
func (g *guest) move(c Config, generation bool) {
	g.t.Helper()
	began := time.Now()
	s := g.save(g.t)
	saved := time.Now()
	g.cancel()
	<-g.ended
	must(g.t, g.Close()) // the disk's lock
	c.SerialOut, c.Log, c.Restore, c.Kernel = g, g.log, &Restore{}, ""
	m, err := New(c)
	must(g.t, err)
	for i, r := range m.Regions() {
		copy(r.Bytes, s.ram[i])
	}
	copied := time.Now()
	must(g.t, m.LoadState(s.sections))
	loaded := time.Now()
	if generation {
		must(g.t, m.NewGeneration())
	}
	g.run(m)
	must(g.t, m.Resume(g.t.Context()))
	g.t.Logf("save %v, copy %v, load %v", saved.Sub(began).Round(time.Millisecond), copied.Sub(saved).Round(time.Millisecond), loaded.Sub(copied).Round(time.Millisecond))
}

// run makes m the guest's machine.
func (g *guest) run(m *Machine) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	g.Machine, g.cancel, g.ended = m, cancel, ended
	go func() { defer close(ended); g.how = m.Run(ctx) }()
}

const linkSize = 512

// guestChain adds a link each 20 ms, in memory and on disk, until it is told to
// stop; then it counts the chain anew.
func guestChain() error {
	f, err := os.OpenFile("/dev/vda", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	stop := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(os.Stdin).ReadString('\n')
		stop <- err
	}()
	mem := make([]byte, 8<<20)
	var sum [sha256.Size]byte
	next := func(n int) [sha256.Size]byte {
		return sha256.Sum256(binary.LittleEndian.AppendUint64(sum[:], uint64(n)))
	}
	n, gap, last := 0, time.Duration(0), time.Now()
	for running := true; running; {
		n++
		sum = next(n)
		copy(mem[n*4096:], sum[:])
		if _, err := f.WriteAt(mem[n*4096:][:linkSize], int64(n*linkSize)); err != nil {
			return err
		}
		if n%4 == 0 {
			if err := f.Sync(); err != nil {
				return err
			}
			if err := tryRNG(); err != nil {
				return err
			}
		}
		say("tick", n)
		time.Sleep(20 * time.Millisecond)
		now := time.Now()
		if now.Before(last) {
			say("error", "the clock went back")
		}
		gap, last = max(gap, now.Sub(last)), now
		select {
		case err := <-stop:
			if err != nil {
				return err
			}
			running = false
		default:
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	sum = [sha256.Size]byte{}
	inMemory, onDisk := 0, 0
	for i := 1; i <= n; i++ {
		sum = next(i)
		if [sha256.Size]byte(mem[i*4096:]) == sum {
			inMemory++
		}
		b := make([]byte, linkSize)
		if _, err := f.ReadAt(b, int64(i*linkSize)); err != nil {
			return err
		}
		if [sha256.Size]byte(b) == sum {
			onDisk++
		}
	}
	say("chain", inMemory)
	say("log", onDisk)
	say("gap", gap.Milliseconds())
	say("reseeds", strings.Count(kernelLog(), "reseeded due to virtual machine fork"))
	sayTrouble()
	return nil
}

// kernelLog is what the kernel has said so far.
func kernelLog() string {
	b := make([]byte, 1<<20)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, b)
	if err != nil {
		say("error", err)
	}
	return string(b[:max(n, 0)])
}
