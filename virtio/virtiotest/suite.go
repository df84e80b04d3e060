package virtiotest

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/hvctl/hvctl/virtio"
)

// Suite is what every device must pass, whatever it does. Run runs it through
// every transport.
type Suite struct {
	Kind virtio.Kind
	Args virtio.Args
	// MakeArgs, when set, makes the options for each device anew.
	MakeArgs func(t testing.TB) virtio.Args
	// Request does one request and checks the answer; nil when the device
	// answers none without its host side.
	Request func(t testing.TB, d *Driver)
	// Change makes the device's own state differ from a fresh one's, for
	// devices that keep any beyond their queues.
	Change func(t testing.TB, d *Driver)
	// Idle lists queues that the device pops only when its host side has
	// something: a malformed chain there need not be noticed.
	Idle []int
	// Needs are features of the type's own that a driver must accept.
	Needs virtio.Features
	// Taken lists queues that are served elsewhere (virtio.RingTaker): the core
	// cannot tell when they were.
	Taken []int
}

// Run is the suite for a device whose options can be used many times.
func Run(t *testing.T, k virtio.Kind, a virtio.Args) {
	t.Helper()
	Suite{Kind: k, Args: a}.Run(t)
}

// links are the ways to a device that the suite takes.
var links = map[string]func() Link{"direct": Direct, "mmio": MMIO, "pci": PCI}

// Run runs every case through every link.
func (s Suite) Run(t *testing.T) {
	for name, link := range links {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct {
				name string
				run  func(testing.TB, Suite, func() Link)
			}{
				{"StatusMachine", statusMachine},
				{"StatusAtRandom", statusAtRandom},
				{"Features", features},
				{"ConfigBounds", configBounds},
				{"RegistersOutOfRange", registersOutOfRange},
				{"BadQueues", badQueues},
				{"MalformedChains", malformedChains},
				{"Request", request},
				{"ResetTwice", resetTwice},
				{"ResetUnderLoad", resetUnderLoad},
				{"PauseAndResume", pauseAndResume},
				{"SaveAndLoad", saveAndLoad},
				{"HostileState", hostileState},
			} {
				t.Run(c.name, func(t *testing.T) { c.run(t, s, link) })
			}
		})
	}
}

// device makes a device.
func (s Suite) device(t testing.TB) virtio.Device {
	t.Helper()
	a := s.Args
	if s.MakeArgs != nil {
		a = s.MakeArgs(t)
	}
	dev, err := s.Kind.New(a)
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

func (s Suite) newDriver(t testing.TB, link func() Link) *Driver {
	t.Helper()
	return New(t, s.device(t), Options{Link: link()})
}

func (s Suite) start(t testing.TB, link func() Link) *Driver {
	t.Helper()
	return Start(t, s.device(t), Options{Link: link()})
}

// works proves that the device serves its driver.
func (s Suite) works(t testing.TB, d *Driver) {
	t.Helper()
	if s.Request != nil {
		s.Request(t, d)
	}
	if d.needsReset() || len(d.Failures()) > 0 {
		t.Fatalf("device broke: status %#02x, failures %v", uint8(d.Link.Status()), d.Failures())
	}
}

const (
	ack      = virtio.StatusAcknowledge
	driver   = ack | virtio.StatusDriver
	featured = driver | virtio.StatusFeaturesOK
	live     = featured | virtio.StatusDriverOK
)

// statusMachine takes every illegal step from every state (§3.1.1).
func statusMachine(t testing.TB, s Suite, link func() Link) {
	d := s.newDriver(t, link)
	path := []virtio.Status{ack, driver, featured, live}
	for n := 0; n <= len(path); n++ {
		for v := virtio.Status(1); v != 0; v++ {
			d.Reset()
			cur := virtio.Status(0)
			for _, next := range path[:n] {
				if next == featured {
					d.Link.AcceptFeatures(d.Link.OfferedFeatures())
				}
				d.Link.SetStatus(next)
				cur = next
			}
			if got := d.Link.Status(); got != cur {
				t.Fatalf("legal steps led to %#02x, want %#02x", uint8(got), uint8(cur))
			}
			written := v &^ virtio.StatusNeedsReset // the device's bit
			legal := written == cur || written == cur|virtio.StatusFailed ||
				cur == 0 && written == driver ||
				n < len(path) && written == path[n]
			d.Link.SetStatus(v)
			got := d.Link.Status()
			if needs := got&virtio.StatusNeedsReset != 0; needs == legal {
				t.Fatalf("writing %#02x in status %#02x gave %#02x", uint8(v), uint8(cur), uint8(got))
			}
			if !legal && got&^virtio.StatusNeedsReset != cur {
				t.Fatalf("illegal write %#02x changed status %#02x to %#02x", uint8(v), uint8(cur), uint8(got))
			}
		}
	}
	d.Renew()
	s.works(t, d)
}

func statusAtRandom(t testing.TB, s Suite, link func() Link) {
	rnd := seeded(t)
	d := s.newDriver(t, link)
	for range 2000 {
		if rnd.IntN(3) == 0 {
			d.Link.AcceptFeatures(d.Link.OfferedFeatures() & virtio.Features(rnd.Uint64()|rnd.Uint64()))
		}
		status := virtio.Status(rnd.Uint32())
		status &= virtio.Status(rnd.Uint32()) // few bits at a time
		d.Link.SetStatus(status)
		if s := d.Link.Status(); s&virtio.StatusDriverOK != 0 && s&live != live {
			t.Fatalf("impossible status %#02x", uint8(s))
		}
	}
	d.Renew()
	s.works(t, d)
}

func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// features: nothing is accepted that was not offered, nothing works without
// VERSION_1, and what is offered is accepted (§2.2.2).
func features(t testing.TB, s Suite, link func() Link) {
	d := s.newDriver(t, link)
	offered := d.Link.OfferedFeatures()
	if !offered.Has(virtio.FeatureVersion1 | virtio.FeatureEventIdx | virtio.FeatureIndirectDesc) {
		t.Errorf("offered %#x lacks what every device has", uint64(offered))
	}
	try := func(f virtio.Features) bool {
		d.Reset()
		d.Link.SetStatus(ack)
		d.Link.SetStatus(driver)
		d.Link.AcceptFeatures(f)
		d.Link.SetStatus(featured)
		return d.Link.Status()&virtio.StatusFeaturesOK != 0
	}
	for bit := range 64 {
		f := virtio.Features(1) << bit
		if offered&f == 0 && try(offered|f) {
			t.Errorf("accepted bit %d, which was not offered", bit)
		}
	}
	if try(offered &^ virtio.FeatureVersion1) {
		t.Error("accepted a driver without VERSION_1")
	}
	if !try(offered) {
		t.Errorf("refused what it offers, %#x", uint64(offered))
	}
	if !try(virtio.FeatureVersion1 | s.Needs) {
		t.Error("refused a driver that takes VERSION_1 and what it needs alone")
	}
	d.Link.AcceptFeatures(0) // too late
	d.SetupQueues()
	d.DriverOK()
}

// configBounds reads and writes around and beyond configuration space.
func configBounds(t testing.TB, s Suite, link func() Link) {
	d := s.start(t, link)
	n := d.Link.Core().Info().ConfigLen
	whole := d.Config(0, int(n))
	for off := uint32(0); off < n+16; off++ {
		for _, size := range []int{1, 2, 4, 8} {
			got := d.Config(off, size)
			for i, b := range got {
				if at := off + uint32(i); at >= n && b != 0xff && b != 0 {
					t.Errorf("byte %d past the end of %d reads %#02x", at, n, b)
				}
			}
			if again := d.Config(off, size); off+uint32(size) <= n && !bytes.Equal(again, got) {
				t.Errorf("configuration at %d is unstable", off)
			}
		}
	}
	d.Link.WriteConfig(n, []byte{1, 2, 3, 4})
	d.Link.WriteConfig(n+100, []byte{1})
	if got := d.Config(0, int(n)); !bytes.Equal(got, whole) {
		t.Errorf("writes past the end changed configuration from %x to %x", whole, got)
	}
	for off := range n {
		for _, size := range []int{1, 2, 4, 8} {
			d.Link.WriteConfig(off, bytes.Repeat([]byte{0xff}, size))
			d.Link.WriteConfig(off, make([]byte, size))
		}
	}
	d.Renew()
	s.works(t, d)
}

// registersOutOfRange selects queues and doorbells that are not there.
func registersOutOfRange(t testing.TB, s Suite, link func() Link) {
	d := s.start(t, link)
	for _, q := range []int{d.NumQueues(), d.NumQueues() + 1, 0x7fff, 0xffff} {
		if n := d.Link.QueueMax(q); n != 0 {
			t.Errorf("queue %d of %d has size %d", q, d.NumQueues(), n)
		}
		d.Link.SetupQueue(q, 8, 0x1000, 0x2000, 0x3000)
		d.Link.Ring(q)
	}
	s.works(t, d)
}

// badQueues sets up queues that cannot work: the device must not run.
func badQueues(t testing.TB, s Suite, link func() Link) {
	d := s.newDriver(t, link)
	end := d.o.MemBytes
	for _, c := range []struct {
		name              string
		size              uint16
		desc, avail, used uint64
	}{
		{"size no power of two", 3, 0x1000, 0x2000, 0x3000},
		{"size zero", 0, 0x1000, 0x2000, 0x3000},
		{"size too large", 0x8000, 0x1000, 0x90000, 0xb0000},
		{"descriptors misaligned", 8, 0x1008, 0x2000, 0x3000},
		{"avail misaligned", 8, 0x1000, 0x2001, 0x3000},
		{"used misaligned", 8, 0x1000, 0x2000, 0x3002},
		{"descriptors past RAM", 8, end - 16, 0x2000, 0x3000},
		{"avail past RAM", 8, 0x1000, end, 0x3000},
		{"used wraps", 8, 0x1000, 0x2000, ^uint64(3)},
	} {
		d.Reset()
		if d.Link.QueueMax(0) >= c.size && c.size == 0x8000 {
			continue
		}
		d.Negotiate()
		d.Link.SetupQueue(0, c.size, gpa(c.desc), gpa(c.avail), gpa(c.used))
		d.Link.SetStatus(live)
		if !d.needsReset() {
			t.Errorf("%s: status %#02x, want NEEDS_RESET", c.name, uint8(d.Link.Status()))
		}
	}
	d.Renew()
	s.works(t, d)
}

func request(t testing.TB, s Suite, link func() Link) {
	if s.Request == nil {
		return
	}
	for _, without := range []virtio.Features{0, virtio.FeatureEventIdx, virtio.FeatureIndirectDesc | virtio.FeatureEventIdx} {
		d := Start(t, s.device(t), Options{Link: link(), Without: without})
		for range 3 * int(d.Queue(0).Size()) / 2 { // past the end of the ring
			s.works(t, d)
			if d.next > gpa(d.o.MemBytes/2) {
				break
			}
		}
		if len(s.Taken) == 0 && d.Link.Core().Metrics().Chains.Load() == 0 {
			t.Error("the request used no chain")
		}
	}
}
