package vsock_test

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/virtiotest"
	"github.com/hvctl/hvctl/virtio/vsock"
)

// freeCID is the lowest one from 5000 on that no device has: what a device gave
// back, the next one gets.
func freeCID(t testing.TB) uint64 {
	t.Helper()
	for c := uint64(5000); c < 6000; c++ {
		d, err := vsock.NewVhost(vsock.Options{CID: c})
		if err == nil {
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			return c
		}
		if !strings.Contains(err.Error(), "belongs to another VM") {
			t.Fatal(err)
		}
	}
	t.Fatal("no CID is free")
	return 0
}

// TestVhostSuite runs the suite of all devices on the real thing: the kernel
// finds the rings in this process's memory, so no guest is needed.
func TestVhostSuite(t *testing.T) {
	testenv.Require(t, testenv.VhostVsock)
	virtiotest.Suite{
		Kind: vsock.Kind,
		MakeArgs: func(t testing.TB) virtio.Args {
			t.Helper()
			return virtio.Args{Values: map[string]string{"backend": "vhost", "cid": num(freeCID(t))}}
		},
		Request: refusedByHost, Idle: []int{rx, events}, Taken: []int{rx, tx},
	}.Run(t)
}

// refusedByHost connects to a port of the host that nobody listens on.
func refusedByHost(t testing.TB, d *virtiotest.Driver) {
	t.Helper()
	own := binary.LittleEndian.Uint64(d.Config(0, 8))
	d.Queue(rx).Add(virtiotest.In(4096))
	d.Queue(rx).Kick()
	p := packet{src: own, dst: 2, srcPort: 1000, dstPort: 99, kind: 1, op: opRequest}
	if u := d.Queue(tx).Do(virtiotest.Out(p.bytes())); u.Written != 0 {
		t.Fatalf("%d bytes written to a transmit buffer", u.Written)
	}
	u := d.Queue(rx).Wait()
	if p := parsePacket(u.In); u.Written != 44 || p.op != opReset || p.src != 2 || p.dst != own || p.srcPort != 99 || p.dstPort != 1000 {
		t.Fatalf("%d bytes: %v", u.Written, p)
	}
}

func TestVhostCIDsAreTheWholeHosts(t *testing.T) {
	testenv.Require(t, testenv.VhostVsock)
	o := vsock.Options{CID: freeCID(t)}
	a, err := vsock.NewVhost(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vsock.NewVhost(o); !errors.Is(err, vsock.ErrVhost) || !strings.Contains(err.Error(), "choose another cid") {
		t.Errorf("the same CID: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := vsock.NewVhost(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func num(n uint64) string { return strconv.FormatUint(n, 10) }
