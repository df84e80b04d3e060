package net

import (
	"errors"
	"os"
	"testing"

	"github.com/hvctl/hvctl/internal/polling"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/vhost"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

// vhostDevice is a device whose queues the kernel serves.
func vhostDevice(t *testing.T, fs []*os.File) *Device {
	t.Helper()
	o := Options{MAC: testMAC}
	for i, f := range fs {
		q, err := polling.Off(f)
		check(t, err)
		check(t, f.Close())
		fs[i] = q
		b, err := NewFile(q)
		check(t, err)
		k, err := vhost.OpenNet()
		check(t, err)
		o.Backends, o.Kernel = append(o.Backends, b), append(o.Kernel, k)
	}
	d, err := New(o)
	check(t, err)
	return d
}

// The kernel serves the rings in this process's memory, over a pause, a reset and a
// restore, and gives them to this process and takes them back.
func TestKernelServesTheQueues(t *testing.T) {
	for name, link := range map[string]func() virtiotest.Link{"mmio": virtiotest.MMIO, "pci": virtiotest.PCI} {
		t.Run(name, func(t *testing.T) { kernelServes(t, link) })
	}
}

func kernelServes(t *testing.T, transport func() virtiotest.Link) {
	if !inNetns(t, testenv.VhostNet) {
		return
	}
	fs, link := makeTap(t, "tap0", 1)
	dev := vhostDevice(t, fs)
	d := virtiotest.Start(t, dev, virtiotest.Options{Link: transport()})
	c, u := dialGuest(t), listenHost(t)
	idle := 0
	both := func(what string, kernel bool) {
		t.Helper()
		dev := d.Link.Core().Device().(*Device)
		before := dev.metrics.RxPackets.Load() + dev.metrics.TxPackets.Load()
		getPing(t, c, d)
		sendPing(t, u, d, link)
		// What the kernel serves wakes nobody here: neither frames nor doorbells.
		if taps := watches(t, "/dev/net/tun"); (taps == 0) != kernel {
			t.Errorf("%s: %d taps are watched", what, taps)
		}
		bells := watches(t, "anon_inode:[eventfd]")
		if kernel {
			idle = bells
		} else if bells <= idle {
			t.Errorf("%s: %d eventfds are watched, and %d while the kernel serves", what, bells, idle)
		}
		if ours := dev.metrics.RxPackets.Load() + dev.metrics.TxPackets.Load() - before; (ours == 0) != kernel {
			t.Errorf("%s: this process served %d frames", what, ours)
		}
	}
	both("first", true)
	check(t, dev.SetLink(false))
	_, err := c.Write([]byte("lost"))
	check(t, err)
	check(t, dev.SetLink(true))
	both("with the link up again", true) // and what was lost does not come
	check(t, dev.SetLink(false))
	d.Stop()
	d.Resume()
	_, err = c.Write([]byte("lost"))
	check(t, err)
	check(t, dev.SetLink(true))
	both("after a pause with the link down", true)
	if ctrl(d, classRX, cmdAllMulti, 1) != ackOK {
		t.Error("the control queue is served by nobody")
	}
	d.Stop()
	d.Resume()
	both("after a pause", true)
	for range 3 {
		d.Stop()
		dev.ServeHere(true)
		d.Resume()
		both("in this process", false)
		d.Stop()
		d.Mem.Dirty().Clear()
		dev.ServeHere(false)
		d.Resume()
		both("in the kernel again", true)
	}
	d.Stop()
	if d.Mem.Dirty().Count() == 0 {
		t.Error("what the kernel wrote is not marked as changed")
	}
	d.Resume()
	d.Renew()
	both("after a reset", true)
	d.Stop()
	transportState, section := d.Save()
	check(t, fs[0].Close()) // the tap goes, and its address
	fs, link = makeTap(t, "tap1", 1)
	d.Load(func() virtio.Device { return vhostDevice(t, fs) }, transport(), transportState, section)
	d.Resume()
	both("after a restore", true)
}

// watches counts what Go's poller watches of this kind.
func watches(t *testing.T, what string) (n int) {
	t.Helper()
	for _, of := range testenv.Polled(t) {
		if of == what {
			n++
		}
	}
	return n
}

func TestKernelServesSeveralPairs(t *testing.T) {
	if !inNetns(t, testenv.VhostNet) {
		return
	}
	fs, link := makeTap(t, "tap0", 2)
	d := virtiotest.Start(t, vhostDevice(t, fs), virtiotest.Options{})
	c, u := dialGuest(t), listenHost(t)
	getPing(t, c, d)
	for _, pairs := range []byte{2, 1, 2} {
		if ctrl(d, classMQ, cmdMQPairs, pairs, 0) != ackOK {
			t.Fatal("refused")
		}
		sendPing(t, u, d, link)
	}
	d.Queue(3).Do(virtiotest.Out(udpFrame(link.Attrs().HardwareAddr, pong)))
}

// A ring that leads nowhere breaks the device, not us.
func TestKernelFindsABrokenRing(t *testing.T) {
	if !inNetns(t, testenv.VhostNet) {
		return
	}
	fs, _ := makeTap(t, "tap0", 1)
	d := virtiotest.Start(t, vhostDevice(t, fs), virtiotest.Options{})
	q := d.Queue(1)
	q.WriteDesc(0, virtiotest.Desc{Addr: 1 << 60, Len: 60})
	q.Offer(0)
	q.Kick()
	d.Eventually("the device needs a reset", func() bool { return d.Link.Core().Status()&virtio.StatusNeedsReset != 0 })
}

func TestVhostNeedsATap(t *testing.T) {
	_, err := New(Options{Backends: []Backend{&file{}}, Kernel: []Kernel{noKernel{}}})
	if !errors.Is(err, virtio.ErrArgs) || !errors.Is(err, errNoTap) {
		t.Errorf("a socket: %v", err)
	}
	if _, err := New(Options{Kernel: []Kernel{noKernel{}}}); !errors.Is(err, virtio.ErrArgs) {
		t.Errorf("no backend: %v", err)
	}
}

// noKernel is a kernel's side that nobody calls.
type noKernel struct{ Kernel }

func (noKernel) Close() error { return nil }
