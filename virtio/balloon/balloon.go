package balloon

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// Feature bits (§5.5.3).
const (
	featStats     virtio.Features = 1 << 1
	featOOM       virtio.Features = 1 << 2
	featHint      virtio.Features = 1 << 3
	featPoison    virtio.Features = 1 << 4
	featReporting virtio.Features = 1 << 5
)

// The queues (§5.5.2).
const (
	queueInflate = iota
	queueDeflate
	queueStats
	queueHint
	queueReporting
	numQueues
)

const (
	queueSize = 64
	pageShift = 12 // of the numbers in the queues and in configuration space
	// maxNumbers bounds one chain of page numbers, in bytes; Linux sends 1 KiB.
	maxNumbers = 64 << 10
	// chunk is how much of a chain is judged at a time, in bytes.
	chunk = 1 << 10
)

// Options make a Device.
type Options struct {
	Target      uint64 // bytes to take from the guest, rounded up to pages
	NoOOM       bool   // the guest may not take pages back when it is out of memory
	NoReporting bool   // the guest does not tell which pages are free
	// Keep, when set, is asked before pages are given back; while it is true they
	// stay where they are, since a hole in the file means something else then
	// (package migrate/lazy).
	Keep func() bool
}

// Metrics are the counters of the device. Those without _total are the state of
// now, the guest's own as it last told.
type Metrics struct {
	Target    atomic.Uint64 `metric:"target_bytes,bytes"`
	Actual    atomic.Uint64 `metric:"actual_bytes,bytes"`
	Inflated  atomic.Uint64 `metric:"inflated_bytes_total,bytes"`
	Deflated  atomic.Uint64 `metric:"deflated_bytes_total,bytes"`
	Reported  atomic.Uint64 `metric:"reported_bytes_total,bytes"`
	Ignored   atomic.Uint64 `metric:"ignored_pages_total,1"`
	Free      atomic.Uint64 `metric:"guest_free_bytes,bytes"`
	Available atomic.Uint64 `metric:"guest_available_bytes,bytes"`
	Total     atomic.Uint64 `metric:"guest_memory_bytes,bytes"`
	Caches    atomic.Uint64 `metric:"guest_cache_bytes,bytes"`
	SwapIn    atomic.Uint64 `metric:"guest_swap_in_bytes_total,bytes"`
	SwapOut   atomic.Uint64 `metric:"guest_swap_out_bytes_total,bytes"`
	Major     atomic.Uint64 `metric:"guest_major_faults_total,1"`
	Minor     atomic.Uint64 `metric:"guest_minor_faults_total,1"`
	OOMKills  atomic.Uint64 `metric:"guest_oom_kills_total,1"`
}

// Device is the balloon. Besides the core, any goroutine may call SetTarget,
// Target, Actual, Refresh and Metrics.
type Device struct {
	o       Options
	metrics Metrics

	mu     sync.Mutex // guards what follows
	env    *virtio.Env
	target uint32 // pages
	actual uint32 // pages, as the driver says
	poison uint32 // what free pages hold, with featPoison
	asked  bool   // for statistics
	answer chan struct{}
}

// New makes a balloon.
func New(o Options) *Device {
	d := &Device{o: o, answer: make(chan struct{})}
	d.SetTarget(o.Target)
	return d
}

// Info describes the device.
func (d *Device) Info() virtio.Info {
	i := virtio.Info{
		ID: virtio.IDBalloon, Features: featStats | featHint | featPoison, ConfigLen: configLen,
		QueueSizes: slices.Repeat([]uint16{queueSize}, numQueues),
	}
	if !d.o.NoOOM {
		i.Features |= featOOM
	}
	if !d.o.NoReporting {
		i.Features |= featReporting
	}
	return i
}

// Activate keeps env.
func (d *Device) Activate(_ context.Context, env *virtio.Env) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.env = env
	return nil
}

// Reset forgets what the driver said. The pages are the guest's again; the target
// stays, for the next driver.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.env, d.actual, d.poison, d.asked = nil, 0, 0, false
	d.metrics.Actual.Store(0)
}

// SetTarget asks the driver to give up that many bytes, rounded up to pages.
func (d *Device) SetTarget(bytes uint64) {
	pages := uint32(min((bytes+1<<pageShift-1)>>pageShift, 1<<32-1))
	d.mu.Lock()
	changed := d.target != pages
	d.target = pages
	env := d.env
	d.mu.Unlock()
	d.metrics.Target.Store(uint64(pages) << pageShift)
	if changed && env != nil {
		env.ConfigChanged()
	}
}

// Target returns what was asked of the driver, in bytes.
func (d *Device) Target() uint64 { return d.metrics.Target.Load() }

// Actual returns what the driver says it has given up, in bytes.
func (d *Device) Actual() uint64 { return d.metrics.Actual.Load() }

// Metrics returns the device's counters.
func (d *Device) Metrics() any { return &d.metrics }

// HandleQueue serves one of the queues.
func (d *Device) HandleQueue(_ context.Context, q *virtio.Queue) error {
	d.mu.Lock()
	env := d.env
	d.mu.Unlock()
	if q.Index() == queueStats {
		return d.serveStats(q)
	}
	for {
		c, ok, err := q.Pop()
		if !ok || err != nil {
			return err
		}
		switch q.Index() {
		case queueInflate:
			err = d.inflate(env.Mem, c.Readable)
		case queueDeflate:
			d.metrics.Deflated.Add(uint64(c.Readable.Len()/4) << pageShift)
		case queueReporting:
			err = d.report(env, c.Writable)
		}
		if err != nil {
			return err
		}
		if err := q.Push(c, 0); err != nil {
			return err
		}
	}
}

// inflate gives the pages of a chain back to the host (§5.5.6).
func (d *Device) inflate(mem *memory.Guest, numbers memory.Vec) error {
	if n := numbers.Len(); n > maxNumbers || n%4 != 0 {
		return virtio.GuestErrorf("%d bytes of page numbers", n)
	}
	for numbers.Len() > 0 {
		var b [chunk]byte
		n := numbers.CopyOut(b[:])
		numbers = numbers.Drop(n)
		pages := make([]uint32, 0, chunk/4)
		for i := 0; i < n; i += 4 {
			pages = append(pages, binary.LittleEndian.Uint32(b[i:]))
		}
		if err := d.release(mem, pages); err != nil {
			return err
		}
	}
	return nil
}

// release gives pages back, neighbours at once.
func (d *Device) release(mem *memory.Guest, pages []uint32) error {
	slices.Sort(pages)
	pages = slices.Compact(pages)
	for len(pages) > 0 {
		n := 1
		for n < len(pages) && pages[n] == pages[0]+uint32(n) {
			n++
		}
		if err := d.releaseRun(mem, memory.GPA(pages[0])<<pageShift, n); err != nil {
			return err
		}
		pages = pages[n:]
	}
	return nil
}

func (d *Device) releaseRun(mem *memory.Guest, at memory.GPA, n int) error {
	size := uint64(n) << pageShift
	if _, err := mem.HVA(at, size); err != nil { // nothing is read there
		if n == 1 {
			d.metrics.Ignored.Add(1)
			return nil
		}
		// A run that leaves RAM, or crosses a hole in it: page by page.
		for i := range n {
			if err := d.releaseRun(mem, at+memory.GPA(i)<<pageShift, 1); err != nil {
				return err
			}
		}
		return nil
	}
	d.metrics.Inflated.Add(size)
	if d.keeps() {
		return nil
	}
	return mem.Release(at, size)
}

// report gives back the free pages that a chain views (§5.5.6.7). Where the driver
// counts on their content, only if that is what they will have.
func (d *Device) report(env *virtio.Env, pages memory.Vec) error {
	d.metrics.Reported.Add(uint64(pages.Len()))
	d.mu.Lock()
	poison := d.poison
	d.mu.Unlock()
	if d.keeps() || env.Features.Has(featPoison) && (poison != 0 || !env.Mem.ReleasesZeroes()) {
		return nil
	}
	return env.Mem.ReleaseVec(pages)
}

func (d *Device) keeps() bool { return d.o.Keep != nil && d.o.Keep() }
