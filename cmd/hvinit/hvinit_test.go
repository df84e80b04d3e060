package main

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// What hvinit does with processes is tested with the real program, by the
// tests of internal/agent. These here cover what needs no privileges.

func TestLookDisk(t *testing.T) {
	sys := t.TempDir()
	for name, serial := range map[string]string{"vda": "image\n", "vdb": "data", "vdaa": "far\n"} {
		if err := os.MkdirAll(filepath.Join(sys, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sys, name, "serial"), []byte(serial), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		d    guestproto.Device
		want string
	}{
		{guestproto.Device{Serial: "data"}, "vdb"},
		{guestproto.Device{Serial: "far"}, "vdaa"},
		{guestproto.Device{Index: 1}, "vdb"},
		{guestproto.Device{Index: 2}, ""},
		{guestproto.Device{Serial: "none"}, ""},
	} {
		if got, err := lookDisk(sys, tt.d); err != nil || got != tt.want {
			t.Errorf("%+v: %q, %v, want %q", tt.d, got, err, tt.want)
		}
	}
	if got, err := lookDisk(sys, guestproto.Device{Pmem: true}); err != nil || got != "" {
		t.Errorf("before there is one: %q, %v", got, err)
	}
	if err := os.Mkdir(sys+"/pmem0", 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := lookDisk(sys, guestproto.Device{Pmem: true}); err != nil || got != "pmem0" {
		t.Errorf("memory: %q, %v", got, err)
	}
	if _, err := lookDisk(sys, guestproto.Device{Index: -1}); err == nil {
		t.Error("index -1 was accepted")
	}
}

func TestParseOptions(t *testing.T) {
	flags, data := parseOptions([]string{"ro", "nosuid", "size=64k", "rw", "noexec", "mode=700"})
	if flags != unix.MS_NOSUID|unix.MS_NOEXEC || data != "size=64k,mode=700" {
		t.Errorf("%#x %q", flags, data)
	}
}

func TestUnknownKernelWordsDoNotStopTheBoot(t *testing.T) {
	c, err := parseArgs([]string{"-nosuchflag", "quiet"})
	if err == nil || !c.realBoot || c.transport != "vsock" {
		t.Errorf("%+v, %v", c, err)
	}
}
