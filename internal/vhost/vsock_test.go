package vhost_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/vhost"
	"github.com/hvctl/hvctl/memory"
)

const versionOne = 1 << 32 // VIRTIO_F_VERSION_1

func openVsock(t *testing.T) *vhost.Vsock {
	t.Helper()
	testenv.Require(t, testenv.VhostVsock)
	v, err := vhost.OpenVsock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

func TestMissingDeviceIsAnErrorOfItsOwn(t *testing.T) {
	if _, err := os.Stat(vhost.VsockPath); err == nil {
		t.Logf("%s is there: nothing to see", vhost.VsockPath)
		return
	}
	if _, err := vhost.OpenVsock(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenVsock = %v", err)
	}
}

func TestGuestCIDsAreExclusive(t *testing.T) {
	a, b := openVsock(t), openVsock(t)
	if err := a.SetGuestCID(4242); err != nil {
		t.Fatal(err)
	}
	if err := b.SetGuestCID(4242); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("second device: %v", err)
	}
	if err := b.SetGuestCID(1); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a reserved CID: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := a.SetRunning(true); !errors.Is(err, os.ErrClosed) {
		t.Errorf("call after Close: %v", err)
	}
	if err := b.SetGuestCID(4242); err != nil {
		t.Errorf("after the first one's Close: %v", err)
	}
}

func TestFeatures(t *testing.T) {
	v := openVsock(t)
	f := v.Features()
	if f&versionOne == 0 {
		t.Fatalf("features %#x lack VERSION_1", f)
	}
	if err := v.SetFeatures(versionOne); err != nil {
		t.Error(err)
	}
	if err := v.SetFeatures(1 << 60); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("unknown bit: %v", err)
	}
}

// TestRingLife sets rings up in guest memory, starts and stops.
func TestRingLife(t *testing.T) {
	v := openVsock(t)
	mem, err := memory.New(memory.Options{Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	ev, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ev)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(v.SetGuestCID(4243))
	ok(v.SetFeatures(versionOne))
	if err := v.SetMemTable(make([]vhost.MemoryRegion, vhost.MaxRegions+1)); err == nil {
		t.Error("more regions than there may be were taken")
	}
	base := uint64(mem.Regions()[0].HVA())
	ok(v.SetMemTable([]vhost.MemoryRegion{{MemorySize: mem.Size(), UserspaceAddr: base}}))
	for i := range 2 {
		at := base + uint64(i)<<16
		ok(v.SetVring(vhost.Vring{Index: i, Num: 64, Base: 7, Desc: at, Avail: at + 0x2000, Used: at + 0x4000, Kick: ev, Call: ev, Err: ev}))
	}
	if err := v.SetVring(vhost.Vring{Index: 2}); err == nil {
		t.Error("a third queue was taken")
	}
	for range 2 {
		ok(v.SetRunning(true))
		ok(v.SetRunning(false))
		for i := range 2 {
			if n, err := v.VringBase(i); err != nil || n != 7 {
				t.Errorf("base of queue %d: %d, %v", i, n, err)
			}
		}
	}
}
