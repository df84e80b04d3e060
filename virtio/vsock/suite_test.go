package vsock_test

import (
	"errors"
	"testing"

	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/virtiotest"
	"github.com/hvctl/hvctl/virtio/vsock"
)

var suite = virtiotest.Suite{
	Kind: vsock.Kind, Args: virtio.Args{Values: map[string]string{"cid": "7"}},
	Request: refused, Idle: []int{rx, events},
}

// refused connects to a port that nobody listens on. After a restore the
// device first wants the driver to take its event.
func refused(t testing.TB, d *virtiotest.Driver) {
	t.Helper()
	ev := d.Queue(events)
	if ev.UsedIdx() == 0 && !hasEvents[ev] {
		hasEvents[ev] = true
		ev.Add(virtiotest.In(4))
		ev.Kick()
	}
	d.Queue(rx).Add(virtiotest.In(44))
	d.Queue(rx).Kick()
	u := d.Queue(tx).Do(virtiotest.Out(packet{src: cid, dst: 2, srcPort: 1000, dstPort: 99, kind: 1, op: opRequest}.bytes()))
	if u.Written != 0 {
		t.Fatalf("%d bytes written to a transmit buffer", u.Written)
	}
	d.Eventually("a reset", func() bool {
		if _, ok := ev.TryWait(); ok {
			ev.Add(virtiotest.In(4))
			ev.Kick()
		}
		u, ok := d.Queue(rx).TryWait()
		if !ok {
			return false
		}
		if p := parsePacket(u.In); u.Written != 44 || p.op != opReset || p.src != 2 || p.dst != cid || p.srcPort != 99 || p.dstPort != 1000 || p.kind != 1 {
			t.Fatalf("%d bytes: %v", u.Written, p)
		}
		return true
	})
}

// hasEvents says which event queues have a buffer; tests here run one by one.
var hasEvents = map[*virtiotest.Queue]bool{}

func TestSuite(t *testing.T) { suite.Run(t) }

func FuzzDevice(f *testing.F) { suite.Fuzz(f) }

func TestOptionsThatCannotBe(t *testing.T) {
	for _, v := range []uint64{0, 1, 2, 1<<32 - 1, 1 << 32, ^uint64(0)} {
		if _, err := vsock.New(vsock.Options{CID: v}); !errors.Is(err, virtio.ErrArgs) {
			t.Errorf("CID %d: %v", v, err)
		}
	}
	for key, val := range map[string]string{"cid": "2", "path": "/nowhere/to/be/found"} {
		if _, err := vsock.Kind.New(virtio.Args{Values: map[string]string{key: val}}); err == nil {
			t.Errorf("%s=%s was taken", key, val)
		}
	}
}

func TestGuestReadsItsAddress(t *testing.T) {
	d := virtiotest.Start(t, newDevice(t), virtiotest.Options{})
	if got := d.Config(0, 8); got[0] != cid || string(got[1:]) != "\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("configuration %x", got)
	}
}
