package mem_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/mem"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

const (
	region = memory.GPA(4 << 30)
	block  = memory.HugePageSize
	blocks = 100
)

// The protocol (§5.15.6), written down again.
const (
	plug, unplug, unplugAll, ask = 0, 1, 2, 3
	ack, nack, busy, wrong       = 0, 1, 2, 3
	plugged, unplugged, mixed    = 0, 1, 2
)

func newRegion(t testing.TB) *memory.Guest {
	t.Helper()
	g, err := memory.New(memory.Options{Size: 1 << 20, Pluggable: memory.Span{GPA: region, Size: blocks * block}, Block: block})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// answer is what the device says to a request for n blocks from block first on.
func answer(d *virtiotest.Driver, kind uint16, first, n int) (resp, state uint16) {
	return raw(d, kind, uint64(region)+uint64(first)*block, n)
}

func raw(d *virtiotest.Driver, kind uint16, addr uint64, n int) (resp, state uint16) {
	le := binary.LittleEndian
	var b [24]byte
	le.PutUint16(b[:], kind)
	le.PutUint64(b[8:], addr)
	le.PutUint16(b[16:], uint16(n))
	u := d.Queue(0).Do(virtiotest.Out(b[:]), virtiotest.In(10))
	return le.Uint16(u.In), le.Uint16(u.In[8:])
}

func want(t testing.TB, d *virtiotest.Driver, kind uint16, first, n int, resp uint16) {
	t.Helper()
	if got, _ := answer(d, kind, first, n); got != resp {
		t.Errorf("request %d for %d blocks from %d: answer %d, want %d", kind, n, first, got, resp)
	}
}

func dev(d *virtiotest.Driver) *mem.Device { return d.Link.Core().Device().(*mem.Device) }

// suite takes a device whose memory is its own; the tests' driver has another.
func suite() virtiotest.Suite {
	var next *memory.Guest
	return virtiotest.Suite{
		Needs:    2,
		Kind:     virtio.Kind{Name: "mem", New: func(virtio.Args) (virtio.Device, error) { return mem.New(next.Pluggable()), nil }},
		MakeArgs: func(t testing.TB) (a virtio.Args) { next = newRegion(t); return a },
		Request: func(t testing.TB, d *virtiotest.Driver) {
			t.Helper()
			must(t, dev(d).Request(3*block))
			raw(d, unplugAll, 0, 0)
			want(t, d, plug, 5, 3, ack)
			want(t, d, unplug, 6, 1, ack)
		},
		Change: func(t testing.TB, d *virtiotest.Driver) {
			t.Helper()
			must(t, dev(d).Request(4*block))
			want(t, d, plug, 1, 1, ack)
		},
	}
}

func TestSuite(t *testing.T)  { suite().Run(t) }
func FuzzDevice(f *testing.F) { suite().Fuzz(f) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func start(t testing.TB) (*virtiotest.Driver, *mem.Device) {
	t.Helper()
	dev := mem.New(newRegion(t).Pluggable())
	return virtiotest.Start(t, dev, virtiotest.Options{}), dev
}

func config(d *virtiotest.Driver, off uint32) uint64 {
	return binary.LittleEndian.Uint64(d.Config(off, 8))
}

func TestMemoryComesAndGoes(t *testing.T) {
	d, dev := start(t)
	for off, want := range map[uint32]uint64{0: block, 8: 0, 16: uint64(region), 24: blocks * block, 32: blocks * block, 40: 0, 48: 0} {
		if got := config(d, off); got != want {
			t.Errorf("configuration at %d is %#x, want %#x", off, got, want)
		}
	}
	seen := d.Link.ConfigInterrupts()
	must(t, dev.Request(4*block))
	d.WaitConfigInterrupt(seen)
	must(t, dev.Request(4*block))
	if n := d.Link.ConfigInterrupts(); n != seen+1 || config(d, 48) != 4*block {
		t.Errorf("%d interrupts for one request, of %#x", n-seen, config(d, 48))
	}
	changed := dev.State().Changed
	want(t, d, plug, 96, 4, ack)
	<-changed
	if s := dev.State(); s.Plugged != 4*block || s.Requested != 4*block || !s.Driven || config(d, 40) != 4*block {
		t.Errorf("state %+v, the driver is told of %#x", s, config(d, 40))
	}
	for _, c := range []struct {
		first, n int
		state    uint16
	}{{0, 96, unplugged}, {96, 4, plugged}, {95, 2, mixed}, {0, 100, mixed}, {99, 1, plugged}} {
		if resp, state := answer(d, ask, c.first, c.n); resp != ack || state != c.state {
			t.Errorf("%d blocks from %d: answer %d, state %d, want %d", c.n, c.first, resp, state, c.state)
		}
	}
	want(t, d, unplug, 97, 2, ack)
	if got := dev.Settle(); got != 2*block || config(d, 48) != 2*block {
		t.Errorf("settled for %#x, the driver is told %#x", got, config(d, 48))
	}
	if resp, _ := raw(d, unplugAll, 12345, 0); resp != ack || config(d, 40) != 0 { // what it names means nothing
		t.Errorf("all of it: answer %d, %#x left", resp, config(d, 40))
	}
}

func TestRequestsThatMustFail(t *testing.T) {
	d, dev := start(t)
	must(t, dev.Request(8*block))
	want(t, d, plug, 10, 4, ack)
	before := dev.State().Plugged
	for _, c := range []struct {
		name     string
		kind     uint16
		first, n int
		resp     uint16
	}{
		{"nothing", plug, 0, 0, wrong},
		{"behind the region", plug, blocks, 1, wrong},
		{"over the end", plug, blocks - 1, 2, wrong},
		{"huge", plug, 0, 1<<16 - 1, wrong},
		{"more than requested", plug, 20, 5, nack},
		{"some are there", plug, 9, 2, wrong},
		{"all are there", plug, 10, 4, wrong},
		{"some are not there", unplug, 9, 2, wrong},
		{"none is there", unplug, 50, 1, wrong},
		{"nothing to take", unplug, 10, 0, wrong},
		{"over the end", unplug, blocks - 1, 2, wrong},
		{"state of nothing", ask, 10, 0, wrong},
		{"state over the end", ask, blocks - 1, 2, wrong},
		{"no such request", 4, 10, 1, wrong},
		{"no such request", 1<<16 - 1, 10, 1, wrong},
	} {
		if got, _ := answer(d, c.kind, c.first, c.n); got != c.resp {
			t.Errorf("%s: answer %d, want %d", c.name, got, c.resp)
		}
	}
	for _, addr := range []uint64{0, uint64(region) - block, uint64(region) + 1, uint64(region) + block/2, ^uint64(0), ^uint64(0) - block + 1, 1 << 63} {
		for _, kind := range []uint16{plug, unplug, ask} {
			if got, _ := raw(d, kind, addr, 1); got != wrong {
				t.Errorf("request %d at %#x: answer %d", kind, addr, got)
			}
		}
	}
	if s := dev.State(); s.Plugged != before {
		t.Errorf("%#x plugged in, were %#x", s.Plugged, before)
	}
	if n := dev.Metrics().(*mem.Metrics).Refused.Load(); n != 15+7*3 {
		t.Errorf("%d refusals were counted", n)
	}
	for name, bytes := range map[string]uint64{"more than there is": (blocks + 1) * block, "half a block": block / 2} {
		if err := dev.Request(bytes); !errors.Is(err, mem.ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOddRequestsAreTheDriversMistake(t *testing.T) {
	for name, bufs := range map[string][]virtiotest.Buf{
		"short":          {virtiotest.Out(make([]byte, 23)), virtiotest.In(10)},
		"long":           {virtiotest.Out(make([]byte, 25)), virtiotest.In(10)},
		"no answer":      {virtiotest.Out(make([]byte, 24))},
		"half an answer": {virtiotest.Out(make([]byte, 24)), virtiotest.In(9)},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := start(t)
			d.Queue(0).Add(bufs...)
			d.Queue(0).Kick()
			d.WaitNeedsReset()
		})
	}
}

func TestADriverThatReadsWhatItLacksIsRefused(t *testing.T) {
	d := virtiotest.New(t, mem.New(newRegion(t).Pluggable()), virtiotest.Options{})
	for _, s := range []virtio.Status{virtio.StatusAcknowledge, virtio.StatusAcknowledge | virtio.StatusDriver} {
		d.Link.SetStatus(s)
	}
	d.Link.AcceptFeatures(virtio.FeatureVersion1)
	d.Link.SetStatus(virtio.StatusAcknowledge | virtio.StatusDriver | virtio.StatusFeaturesOK)
	if d.Link.Status()&virtio.StatusFeaturesOK != 0 {
		t.Error("the features were accepted")
	}
}

// A reset leaves what is plugged in, for the guest may be running in it.
func TestAResetTakesNothing(t *testing.T) {
	d, dev := start(t)
	must(t, dev.Request(block))
	want(t, d, plug, 0, 1, ack)
	d.Reset()
	if s := dev.State(); s.Plugged != block || s.Requested != block || s.Driven {
		t.Errorf("state %+v", s)
	}
}

// A guest can make each block differ from its neighbours, and then gives all back.
func TestEveryOtherBlock(t *testing.T) {
	g := newRegion(t)
	dev := mem.New(g.Pluggable())
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	must(t, dev.Request(blocks*block))
	want(t, d, plug, 0, blocks, ack)
	for i := 0; i < blocks; i += 2 {
		must(t, g.WriteAt([]byte{1}, region+memory.GPA(i)*block))
		want(t, d, unplug, i, 1, ack)
	}
	raw(d, unplugAll, 0, 0)
	var st unix.Stat_t
	must(t, unix.Fstat(g.FD(), &st))
	if st.Blocks != 0 || dev.State().Plugged != 0 {
		t.Errorf("%d bytes are left, in %d blocks of a disk", dev.State().Plugged, st.Blocks)
	}
}

// said is a state in the words of somebody else.
type said string

func (said) StateVersion() uint32          { return 1 }
func (s said) SaveState() (any, error)     { return json.RawMessage(s), nil }
func (said) LoadState(state.Decoder) error { return nil }

func TestStatesOfOthersAreRefused(t *testing.T) {
	d, dev := start(t)
	must(t, dev.Request(2*block))
	want(t, d, plug, 70, 2, ack)
	saved, err := state.Save("m", dev)
	must(t, err)
	again := mem.New(newRegion(t).Pluggable())
	must(t, state.Load(saved, again))
	if s := again.State(); s.Plugged != 2*block || s.Requested != 2*block {
		t.Errorf("restored: %+v", s)
	}
	text := string(saved.Payload)
	for name, c := range map[string][2]string{
		"another place":       {`"start":4294967296`, `"start":8589934592`},
		"another size":        {`"bytes":209715200`, `"bytes":209715208`},
		"other blocks":        {`"block":2097152`, `"block":4194304`},
		"too much":            {`"requested":4194304`, `"requested":1000000000000`},
		"half a block":        {`"requested":4194304`, `"requested":4194305`},
		"blocks that are not": {`"blocks":[`, `"blocks":[1,`},
		"a block too many":    {`"blocks":[0,192]`, `"blocks":[0,68719476736]`},
	} {
		bad, err := state.Save("m", said(strings.Replace(text, c[0], c[1], 1)))
		if err != nil || string(bad.Payload) == text {
			t.Fatalf("%s: %v; is there a %s in %s?", name, err, c[0], text)
		}
		if err := state.Load(bad, mem.New(newRegion(t).Pluggable())); !errors.Is(err, virtio.ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
