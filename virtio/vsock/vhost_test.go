package vsock_test

import (
	"errors"
	"io/fs"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/virtiotest"
	"github.com/hvctl/hvctl/virtio/vsock"
)

func startVhost(t *testing.T) (*host, *virtiotest.Driver) {
	t.Helper()
	h := newHost(t)
	return h, virtiotest.Start(t, h.device(), virtiotest.Options{})
}

func TestVhostGetsTheDriversRings(t *testing.T) {
	h, d := startVhost(t)
	k := h.state()
	if !k.running || k.cid != cid {
		t.Fatalf("running %v with CID %d", k.running, k.cid)
	}
	if want := uint64(d.Features); k.features != want || want&(1<<26|1<<33) != 0 {
		t.Errorf("features %#x, negotiated %#x", k.features, want)
	}
	r := d.Mem.Regions()[0]
	if len(k.regions) != 1 || k.regions[0].GuestPhysAddr != uint64(r.GPA) || k.regions[0].MemorySize != r.Size || k.regions[0].UserspaceAddr != uint64(r.HVA()) {
		t.Errorf("memory %+v", k.regions)
	}
	core := d.Link.Core()
	for i := range 2 {
		v := k.rings[i]
		hva := func(p virtio.RingPart) uint64 {
			at, err := d.Mem.HVA(core.QueueAddr(i, p), 1)
			if err != nil {
				t.Fatal(err)
			}
			return uint64(at)
		}
		if v.Num != core.QueueSize(i) || v.Base != 0 || v.Desc != hva(virtio.PartDesc) || v.Avail != hva(virtio.PartAvail) || v.Used != hva(virtio.PartUsed) {
			t.Errorf("ring %+v", v)
		}
		if v.Kick != core.Doorbell(i).FD() {
			t.Errorf("queue %d: not kicked by its doorbell", i)
		}
		seen := d.Link.Interrupts(i)
		h.signal(v.Call)
		d.WaitInterrupt(i, seen)
	}
	if got := d.Config(0, 8); got[0] != cid {
		t.Errorf("configuration %x", got)
	}
}

func TestVhostPauseTakesTheRingsBack(t *testing.T) {
	h, d := startVhost(t)
	h.now.taken = 5
	d.Stop()
	if k := h.state(); k.running {
		t.Error("runs while paused")
	}
	s, dev := d.Save()
	if n := strings.Count(string(s.Payload), `"next_avail":5,"next_used":5`); n != 2 {
		t.Errorf("%d rings at 5: %s", n, s.Payload)
	}
	if !strings.Contains(string(dev.Payload), "7") {
		t.Errorf("state %s", dev.Payload)
	}
	seen := d.Link.Interrupts(rx)
	h.signal(h.state().rings[rx].Call) // the last of the kernel's signals
	d.Resume()
	d.WaitInterrupt(rx, seen)
	k := h.state()
	if !k.running || k.rings[rx].Base != 5 || k.rings[tx].Base != 5 || h.opened != 1 {
		t.Errorf("running %v, rings %+v, opened %d times", k.running, k.rings, h.opened)
	}
	dirty := d.Mem.Dirty().Count()
	if want := d.Mem.Size() / 4096; dirty != want {
		t.Errorf("%d of %d pages count as dirty", dirty, want)
	}
}

func TestVhostResetGivesConnectionsUp(t *testing.T) {
	h := newHost(t)
	d := virtiotest.New(t, h.device(), virtiotest.Options{})
	d.Reset()
	if h.opened != 1 {
		t.Error("a reset of what nobody used opened the device again")
	}
	for n := range 3 {
		d.Renew()
		if k := h.state(); !k.running || k.cid != cid || h.opened != n+1 {
			t.Errorf("round %d: running %v, CID %d, opened %d times", n, k.running, k.cid, h.opened)
		}
	}
	d.Stop()
	d.Reset()
	d.Resume()
	if k := h.state(); k.running || k.cid != cid {
		t.Errorf("after a reset while paused: running %v, CID %d", k.running, k.cid)
	}
}

func TestVhostBrokenRingNeedsReset(t *testing.T) {
	h, d := startVhost(t)
	h.signal(h.state().rings[rx].Err)
	d.WaitNeedsReset()
	d.Eventually("the kernel stops", func() bool { return !h.state().running })
	d.Renew()
	if !h.state().running {
		t.Error("does not run after a reset")
	}
	if n := d.Link.Core().Metrics().GuestErrors.Load(); n != 1 {
		t.Errorf("%d mistakes of the driver counted", n)
	}
}

// The kernel says no: the guest has a device that needs a reset, and the
// machine goes on.
func TestVhostRefusalsNeedReset(t *testing.T) {
	for _, method := range []string{"SetFeatures", "SetMemTable", "SetVring", "Start"} {
		t.Run(method, func(t *testing.T) {
			h := newHost(t)
			d := virtiotest.New(t, h.device(), virtiotest.Options{})
			h.set(method, errFake)
			d.Negotiate()
			d.SetupQueues()
			d.Link.SetStatus(d.Link.Status() | virtio.StatusDriverOK)
			d.WaitNeedsReset()
			if h.state().running {
				t.Error("runs")
			}
			h.set(method, nil)
			d.Renew()
			if !h.state().running {
				t.Error("does not run after a reset")
			}
		})
	}
}

func TestVhostThatDoesNotStopIsNotUsedAgain(t *testing.T) {
	for _, method := range []string{"Stop", "VringBase"} {
		t.Run(method, func(t *testing.T) {
			h, d := startVhost(t)
			h.set(method, errFake)
			d.Stop()
			h.set(method, nil)
			d.Resume()
			d.WaitNeedsReset() // its indices are unknown
			d.Renew()
			if !h.state().running {
				t.Error("does not run after a reset")
			}
		})
	}
}

// While a reset has the device open anew, somebody may take the CID.
func TestVhostCIDLostInAReset(t *testing.T) {
	for _, method := range []string{"open", "SetGuestCID"} {
		t.Run(method, func(t *testing.T) {
			h, d := startVhost(t)
			h.set(method, unix.EADDRINUSE)
			d.Reset()
			d.Negotiate()
			d.SetupQueues()
			d.Link.SetStatus(d.Link.Status() | virtio.StatusDriverOK)
			d.WaitNeedsReset()
			h.set(method, nil)
			d.Renew()
			if !h.state().running {
				t.Error("does not run when the CID is free again")
			}
		})
	}
}

func TestVhostQueueTakenBack(t *testing.T) {
	h, d := startVhost(t)
	d.Link.Core().DisableQueue(events)
	if !h.state().running {
		t.Error("stopped for the event queue")
	}
	d.Link.Core().DisableQueue(rx)
	if h.state().running {
		t.Error("the kernel still uses a ring that the driver has back")
	}
	d.Stop()
	d.Resume()
	if h.state().running {
		t.Error("runs with one ring")
	}
	d.Renew()
	if !h.state().running {
		t.Error("does not run after a reset")
	}
}

func TestVhostRestoreResetsTheTransport(t *testing.T) {
	h, d := startVhost(t)
	ev := d.Queue(events)
	ev.Add(virtiotest.In(4))
	ev.Kick()
	ev.Settle()
	if _, ok := ev.TryWait(); ok {
		t.Error("an event without a restore")
	}
	d.Restore(func() virtio.Device { return h.device() }, nil)
	if u := ev.Wait(); u.Written != 4 || string(u.In) != "\x00\x00\x00\x00" {
		t.Errorf("event %x, %d bytes", u.In, u.Written)
	}
	ev.Add(virtiotest.In(4))
	ev.Kick()
	ev.Settle()
	if _, ok := ev.TryWait(); ok {
		t.Error("a second event")
	}
	if !h.state().running {
		t.Error("does not run after a restore")
	}
	other, err := vsock.NewVhostWith(cid+1, newHost(t).open)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	d.Stop()
	_, dev := d.Save()
	if err := state.Load(dev, other); !errors.Is(err, virtio.ErrState) {
		t.Errorf("another CID: %v", err)
	}
}

func TestVhostOffersWhatTheKernelHas(t *testing.T) {
	h := newHost(t)
	h.features = uint64(virtio.FeatureVersion1 | virtio.FeatureIndirectDesc)
	d := virtiotest.Start(t, h.device(), virtiotest.Options{})
	if f := d.Link.OfferedFeatures(); uint64(f) != h.features {
		t.Errorf("offered %#x, the kernel has %#x", uint64(f), h.features)
	}
	old := newHost(t)
	old.features = 1 << 28
	if _, err := vsock.NewVhostWith(cid, old.open); !errors.Is(err, vsock.ErrVhost) {
		t.Errorf("a kernel without VERSION_1: %v", err)
	}
}

func TestVhostErrorsSayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		method string
		err    error
		want   string
	}{
		{"open", &fs.PathError{Op: "open", Path: "/dev/vhost-vsock", Err: unix.ENOENT}, "modprobe vhost_vsock"},
		{"open", &fs.PathError{Op: "open", Path: "/dev/vhost-vsock", Err: unix.ENODEV}, "modprobe vhost_vsock"},
		{"open", &fs.PathError{Op: "open", Path: "/dev/vhost-vsock", Err: unix.EACCES}, "run hvctl as root"},
		{"SetGuestCID", unix.EADDRINUSE, "CID 7 belongs to another VM of this host; choose another cid"},
		{"open", errFake, "backend=user"},
	} {
		h := newHost(t)
		h.set(c.method, c.err)
		_, err := vsock.NewVhostWith(cid, h.open)
		if !errors.Is(err, vsock.ErrVhost) || !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v; want it to say %q", c.err, err, c.want)
		}
	}
	for values, want := range map[[2]string]string{
		{"path", "/tmp/s"}:   "AF_VSOCK",
		{"backend", "magic"}: "there are user and vhost",
		{"cid", "2"}:         "3",
	} {
		a := virtio.Args{Values: map[string]string{"backend": "vhost", values[0]: values[1]}}
		if _, err := vsock.Kind.New(a); !errors.Is(err, virtio.ErrArgs) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v; want it to say %q", values, err, want)
		}
	}
	if _, err := vsock.NewVhostWith(2, newHost(t).open); !errors.Is(err, virtio.ErrArgs) {
		t.Errorf("CID 2: %v", err)
	}
}

// Nothing is left when a driver comes and goes, whatever happened meanwhile.
func TestVhostLeaksNothing(t *testing.T) {
	h := newHost(t)
	mem := virtiotest.New(t, h.device(), virtiotest.Options{})
	round := func() {
		mem.Renew()
		mem.Stop()
		mem.Resume()
		h.signal(h.state().rings[tx].Err)
		mem.WaitNeedsReset()
		mem.Reset()
	}
	round()
	fds, goroutines := openFDs(t), runtime.NumGoroutine()
	for range 20 {
		round()
	}
	if n := openFDs(t); n > fds {
		t.Errorf("%d descriptors, %d before", n, fds)
	}
	mem.Eventually("goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines })
}

func openFDs(t *testing.T) int {
	t.Helper()
	n := 0
	for fd := range 1024 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}
