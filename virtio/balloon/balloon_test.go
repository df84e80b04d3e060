package balloon_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/balloon"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

const (
	inflateQ, deflateQ, statsQ, reportQ = 0, 1, 2, 4
	poisonBit                           = virtio.Features(1) << 4
	high                                = 0xc00000 // where no test's queues are
)

func dev(d *virtiotest.Driver) *balloon.Device { return d.Link.Core().Device().(*balloon.Device) }

func counters(d *virtiotest.Driver) *balloon.Metrics { return dev(d).Metrics().(*balloon.Metrics) }

func numbers(pages ...uint32) virtiotest.Buf {
	var b []byte
	for _, p := range pages {
		b = binary.LittleEndian.AppendUint32(b, p)
	}
	return virtiotest.Out(b)
}

// fill makes pages from high on, and returns how much of the file is there.
func fill(t testing.TB, d *virtiotest.Driver, pages int) int64 {
	t.Helper()
	d.Write(high, bytes.Repeat([]byte{7}, pages*memory.PageSize))
	return blocks(t, d.Mem)
}

func blocks(t testing.TB, m *memory.Guest) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(m.FD(), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

func request(t testing.TB, d *virtiotest.Driver) {
	t.Helper()
	at := d.Alloc(2*memory.PageSize, memory.PageSize)
	first := uint32(at >> 12)
	d.Write(at, bytes.Repeat([]byte{7}, 2*memory.PageSize))
	d.Queue(inflateQ).Do(numbers(first+1, first))
	if got := d.Read(at, 2*memory.PageSize); !bytes.Equal(got, make([]byte, len(got))) {
		t.Fatal("pages in the balloon have their old content")
	}
	d.Queue(deflateQ).Do(numbers(first, first+1))
}

var suite = virtiotest.Suite{
	Kind: balloon.Kind, Args: virtio.Args{ID: "b", Values: map[string]string{"target": "8192"}}, Request: request,
	Change: func(_ testing.TB, d *virtiotest.Driver) { dev(d).SetTarget(1 << 20) },
}

func TestSuite(t *testing.T)  { suite.Run(t) }
func FuzzDevice(f *testing.F) { suite.Fuzz(f) }

func TestTargetReachesTheDriver(t *testing.T) {
	d := virtiotest.Start(t, balloon.New(balloon.Options{Target: 3<<12 - 1}), virtiotest.Options{})
	if got := binary.LittleEndian.Uint32(d.Config(0, 4)); got != 3 {
		t.Errorf("%d pages at first, want 3", got)
	}
	seen := d.Link.ConfigInterrupts()
	dev(d).SetTarget(5 << 12)
	d.WaitConfigInterrupt(seen)
	dev(d).SetTarget(5 << 12)
	if n := d.Link.ConfigInterrupts(); n != seen+1 {
		t.Errorf("%d interrupts for one new target", n-seen)
	}
	d.Link.WriteConfig(4, []byte{4, 0, 0, 0})
	if dev(d).Actual() != 4<<12 || dev(d).Target() != 5<<12 {
		t.Errorf("actual %d, target %d", dev(d).Actual(), dev(d).Target())
	}
	d.Link.WriteConfig(0, []byte{9, 0, 0, 0})
	if dev(d).Target() != 5<<12 {
		t.Error("the driver has set the target")
	}
}

func TestPagesOutsideRAMAreIgnored(t *testing.T) {
	d := virtiotest.Start(t, balloon.New(balloon.Options{}), virtiotest.Options{})
	last := uint32(16<<20>>12 - 1) // a run over the end of RAM: one page of it counts
	d.Queue(inflateQ).Do(numbers(last, last+1, last+2, 0xffffffff, 0x80000000))
	if m := counters(d); m.Ignored.Load() != 4 || m.Inflated.Load() != memory.PageSize {
		t.Errorf("%d pages ignored, %d bytes taken", m.Ignored.Load(), m.Inflated.Load())
	}
}

func TestOddLengthsAreTheDriversMistake(t *testing.T) {
	for name, n := range map[string]int{"half a number": 6, "too many numbers": 64<<10 + 4} {
		t.Run(name, func(t *testing.T) {
			d := virtiotest.Start(t, balloon.New(balloon.Options{}), virtiotest.Options{})
			d.Queue(inflateQ).Add(virtiotest.Out(make([]byte, n)))
			d.Queue(inflateQ).Kick()
			d.WaitNeedsReset()
		})
	}
}

// report offers two free pages and a half and tells whether they went.
func report(t *testing.T, d *virtiotest.Driver) bool {
	t.Helper()
	q := d.Queue(reportQ)
	q.UsedIdx() // its page is there
	before := fill(t, d, 4)
	d.Mem.Dirty().Clear()
	q.WriteDesc(0, virtiotest.Desc{Addr: high, Len: 2*memory.PageSize + 2048, Flags: virtiotest.FlagWrite})
	q.Offer(0)
	q.Kick()
	d.Eventually("the report was served", func() bool { return q.UsedIdx() == 1 })
	after := blocks(t, d.Mem)
	gone := after == before-16
	if !gone && after != before {
		t.Errorf("%d blocks, had %d", after, before)
	}
	if got := d.Read(high+2*memory.PageSize, 1); got[0] != 7 {
		t.Error("a page that is free in part has gone")
	}
	if dirty := d.Mem.Dirty(); gone && (!dirty.Has(high>>12) || !dirty.Has(high>>12+1)) {
		t.Error("pages that have gone are not dirty")
	}
	return gone
}

func TestReportedPagesGo(t *testing.T) {
	keep := true
	for _, c := range []struct {
		name    string
		options balloon.Options
		without virtio.Features
		poison  byte
		want    bool
	}{
		{"content means nothing", balloon.Options{}, poisonBit, 0, true},
		{"zeroes stay zeroes", balloon.Options{}, 0, 0, true},
		{"poison would be lost", balloon.Options{}, 0, 0xaa, false},
		{"holes mean something else", balloon.Options{Keep: func() bool { return keep }}, poisonBit, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := virtiotest.Start(t, balloon.New(c.options), virtiotest.Options{Without: c.without})
			d.Link.WriteConfig(12, bytes.Repeat([]byte{c.poison}, 4))
			if got := report(t, d); got != c.want {
				t.Errorf("gone: %v", got)
			}
		})
	}
}

func TestReportingCanBeOff(t *testing.T) {
	d := virtiotest.New(t, balloon.New(balloon.Options{NoReporting: true, NoOOM: true}), virtiotest.Options{})
	if f := d.Link.OfferedFeatures(); f&(1<<5|1<<2) != 0 {
		t.Errorf("offered %#x", uint64(f))
	}
}

func stats(free uint64) virtiotest.Buf {
	b := []byte{4, 0}
	b = binary.LittleEndian.AppendUint64(b, free)
	b = append(b, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8, 0) // a tag that nobody knows, and half a statistic
	return virtiotest.Out(b)
}

func TestStatisticsComeWhenTheyAreAskedFor(t *testing.T) {
	d := virtiotest.Start(t, balloon.New(balloon.Options{}), virtiotest.Options{})
	q := d.Queue(statsQ)
	q.Add(stats(100))
	q.Kick()
	q.Settle()
	if _, back := q.TryWait(); back || counters(d).Free.Load() != 100 {
		t.Fatalf("buffer came back: %v; %d bytes free", back, counters(d).Free.Load())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() { dev(d).Refresh(ctx); close(done) }()
	q.Wait() // the driver is asked
	q.Add(stats(200))
	q.Kick()
	<-done
	if got := counters(d).Free.Load(); got != 200 || ctx.Err() != nil {
		t.Errorf("%d bytes free, %v", got, ctx.Err())
	}
	// Over a pause and a restore the buffer is still in the ring.
	d.Stop()
	d.Resume()
	go dev(d).Refresh(ctx)
	q.Wait()
}

func TestNobodyWaitsForADriverThatIsNotThere(t *testing.T) {
	balloon.New(balloon.Options{}).Refresh(t.Context())
}

func TestBadArgs(t *testing.T) {
	for _, v := range []map[string]string{{"target": "-1"}, {"oom": "maybe"}, {"reporting": ""}, {"size": "1"}} {
		r := virtio.NewRegistry(balloon.Kind)
		if _, err := r.New("balloon", virtio.Args{ID: "b", Values: v}); !errors.Is(err, virtio.ErrArgs) {
			t.Errorf("%v: %v", v, err)
		}
	}
}
