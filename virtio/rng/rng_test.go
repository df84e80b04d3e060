package rng_test

import (
	"bytes"
	"testing"

	"github.com/hvctl/hvctl/virtio/rng"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

var suite = virtiotest.Suite{Kind: rng.Kind, Request: request}

func request(t testing.TB, d *virtiotest.Driver) {
	t.Helper()
	got := d.Queue(0).Do(virtiotest.In(32), virtiotest.In(32))
	if got.Written != 64 || bytes.Equal(got.In[:32], make([]byte, 32)) || bytes.Equal(got.In[:32], got.In[32:]) {
		t.Fatalf("%d bytes: %x", got.Written, got.In)
	}
}

func TestSuite(t *testing.T) { suite.Run(t) }

func FuzzDevice(f *testing.F) { suite.Fuzz(f) }

func TestOneChainGetsABoundedAmount(t *testing.T) {
	d := virtiotest.Start(t, rng.New(), virtiotest.Options{})
	if got := d.Queue(0).Do(virtiotest.In(40<<10), virtiotest.In(40<<10)); got.Written != 64<<10 {
		t.Errorf("%d bytes for one chain", got.Written)
	}
}

func TestReadableBuffersAreTheDriversMistake(t *testing.T) {
	for name, bufs := range map[string][]virtiotest.Buf{
		"only readable": {virtiotest.Out([]byte("x"))},
		"both":          {virtiotest.Out([]byte("x")), virtiotest.In(8)},
	} {
		t.Run(name, func(t *testing.T) {
			d := virtiotest.Start(t, rng.New(), virtiotest.Options{})
			d.Queue(0).Add(bufs...)
			d.Queue(0).Kick()
			d.WaitNeedsReset()
		})
	}
}
