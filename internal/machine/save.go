package machine

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/vcpu"
	"github.com/hvctl/hvctl/virtio"
)

// ErrRestore is wrapped when a machine cannot be put in a saved state: the
// state is broken, is that of another machine, or asks for what this host does
// not have.
var ErrRestore = errors.New("restore refused")

// ErrNotPaused is wrapped when the state of a machine that runs is asked for.
var ErrNotPaused = errors.New("the machine is not paused")

// part is one section of a machine. why says what depends on its place in the
// order of loading; saving, of a machine where everything stands still, asks for
// one order only: vCPUs before nothing that raises interrupts, since devices
// were stopped before either.
type part struct {
	path string
	why  string
	state.Stateful
}

// parts lists every section in the order of loading. msrs are those to save.
func (m *Machine) parts(msrs []uint32, load loading) []part {
	p := []part{
		{"machine", "first: what does not fit this machine is refused before anything changes", &shape{m: m}},
		{"clock", "before the vCPUs: it tells how far their TSCs have moved", load.clock},
	}
	for i, c := range m.cpus {
		p = append(p, part{fmt.Sprintf("vcpu/%d", i), "before whatever raises interrupts: their local APICs take them", &cpuState{c, msrs, load}})
	}
	p = append(p, part{"irqchip", "after the local APICs, to which it delivers what is pending, before the devices", &irqchip{m.vm}})
	if m.pci != nil {
		p = append(p, part{"pci", "before the functions that are on it", m.pci})
	}
	for i, d := range m.devices {
		p = append(p,
			part{fmt.Sprintf("virtio/%d/device", i), "its place does not matter: nothing runs before Resume", d.core.Device()},
			part{fmt.Sprintf("virtio/%d/transport", i), "after the bus; a vector that is pending is raised", d.Transport},
		)
	}
	if m.serial != nil {
		p = append(p, part{"serial", "after the interrupt controllers: it raises its interrupt again", m.serial})
	}
	if m.watchdog != nil {
		p = append(p, part{"watchdog", "its place does not matter: it is paused", m.watchdog})
	}
	if m.plugCPU != nil {
		p = append(p, part{"cpus", "its place does not matter: those that are not plugged in are reset at the end", m.plugCPU})
	}
	return append(p, part{"power", "after the interrupt controllers, like the serial port", m.power})
}

// SaveState returns the state of everything but RAM. Preconditions: paused; else
// the error wraps ErrNotPaused, or ErrEnded when there is no guest any more.
// The machine stays paused, and can go on as if nothing had been.
func (m *Machine) SaveState() ([]state.Section, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed || m.ended.Load() || len(m.end) > 0:
		return nil, ErrEnded
	case !m.paused.Load():
		return nil, ErrNotPaused
	case m.blank:
		return nil, fmt.Errorf("%w: nothing has been restored into this machine", ErrRestore)
	}
	if err := m.unplugged(); err != nil {
		return nil, err
	}
	if m.debugger.Load() != nil { // whose breakpoints are in the memory
		return nil, fmt.Errorf("%w: detach it first", ErrDebugged)
	}
	msrs, err := m.sys.MSRIndexList()
	if err != nil {
		return nil, err
	}
	var out []state.Section
	for _, p := range m.parts(msrs, loading{clock: &clock{m: m}}) {
		sec, err := state.Save(p.path, p)
		if err != nil {
			return nil, m.orEnded(err)
		}
		out = append(out, sec)
	}
	return out, nil
}

// LoadState puts a machine that was made with Config.Restore in a saved state;
// it stays paused. Sections are hostile input: an unknown, missing or doubled
// one is refused, as is everything that its part does not take. Errors wrap
// ErrRestore and name the section; the machine is then to be closed.
func (m *Machine) LoadState(sections []state.Section) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed || m.ended.Load():
		return ErrEnded
	case !m.blank:
		return fmt.Errorf("%w: the machine was not made to be restored, or has been already", ErrRestore)
	}
	host, err := m.sys.SupportedCPUID()
	if err != nil {
		return err
	}
	load := loading{clock: &clock{m: m}, host: policyCPUID(host), m: m}
	if err := m.loadParts(m.parts(nil, load), sections); err != nil {
		return fmt.Errorf("%w: %w", ErrRestore, m.orEnded(err))
	}
	if err := load.clock.set(); err != nil {
		return fmt.Errorf("%w: %w", ErrRestore, err)
	}
	if m.plugCPU != nil {
		if err := m.vacate(); err != nil {
			return fmt.Errorf("%w: %w", ErrRestore, m.orEnded(err))
		}
	}
	m.clock, m.blank, m.arrived = load.clock.use, false, true
	return nil
}

// CanSave returns why SaveState would fail now, as far as devices know that
// while the guest runs. It spares the guest a copy of its memory for nothing.
func (m *Machine) CanSave() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.ended.Load() {
		return ErrEnded
	}
	errs := []error{m.unplugged()}
	for _, d := range m.devices {
		if s, ok := d.core.Device().(interface{ CanSave() error }); ok {
			errs = append(errs, s.CanSave())
		}
	}
	return errors.Join(errs...)
}

// Rehearse goes through the motions of saving and loading, and returns about how
// many bytes the state has. The machine, made with Config.Restore and not loaded
// yet, stays as it is.
func (m *Machine) Rehearse() (bytes int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || !m.blank {
		return 0, fmt.Errorf("%w: the machine was not made to be restored, or has been already", ErrRestore)
	}
	msrs, err := m.sys.MSRIndexList()
	if err != nil {
		return 0, err
	}
	for _, p := range m.parts(msrs, loading{clock: &clock{m: m}}) {
		n, err := state.Rehearse(p.Stateful)
		if err != nil {
			return 0, fmt.Errorf("rehearse %s: %w", p.path, m.orEnded(err))
		}
		bytes += n
	}
	return bytes, nil
}

func (m *Machine) loadParts(parts []part, sections []state.Section) error {
	given := make(map[string]state.Section, len(sections))
	for _, s := range sections {
		if _, twice := given[s.Path]; twice {
			return fmt.Errorf("section %.64q is there twice", s.Path)
		}
		given[s.Path] = s
	}
	for _, p := range parts {
		s, ok := given[p.path]
		if !ok {
			return fmt.Errorf("there is no section %q", p.path)
		}
		if err := state.Load(s, p); err != nil {
			return err
		}
		delete(given, p.path)
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		return fmt.Errorf("this machine has no part %.64q", name)
	}
	return nil
}

// shape is the section that says what machine the others belong to.
type shape struct{ m *Machine }

type shapeV1 struct {
	MemoryBytes uint64        `json:"memory_bytes"`
	CPUs        int           `json:"cpus"`
	Transport   Transport     `json:"transport"`
	Serial      bool          `json:"serial"`
	Devices     []deviceShape `json:"devices"`
}

type deviceShape struct {
	ID   string          `json:"id"`
	Type virtio.DeviceID `json:"type"`
}

func (s *shape) StateVersion() uint32 { return 1 }

func (s *shape) SaveState() (any, error) { return s.now(), nil }

func (s *shape) now() shapeV1 {
	m := s.m
	v := shapeV1{MemoryBytes: m.mem.Size(), CPUs: len(m.cpus), Transport: m.cfg.Transport, Serial: m.serial != nil, Devices: []deviceShape{}}
	for _, d := range m.devices {
		v.Devices = append(v.Devices, deviceShape{d.id, d.core.Info().ID})
	}
	return v
}

// LoadState changes nothing: it says why the rest would not fit.
func (s *shape) LoadState(d state.Decoder) error {
	var v shapeV1
	if err := d.Into(&v); err != nil {
		return err
	}
	have := s.now()
	switch {
	case v.MemoryBytes != have.MemoryBytes:
		return fmt.Errorf("the guest had %d MiB of memory, this machine has %d MiB", v.MemoryBytes>>20, have.MemoryBytes>>20)
	case v.CPUs != have.CPUs:
		return fmt.Errorf("the guest had %d vCPUs, this machine has %d", v.CPUs, have.CPUs)
	case v.Transport != have.Transport:
		return fmt.Errorf("the guest's devices were attached by %.16q, this machine's are by %q", v.Transport, have.Transport)
	case v.Serial != have.Serial:
		return fmt.Errorf("the guest had a serial port: %v; this machine has one: %v", v.Serial, have.Serial)
	case !slices.Equal(v.Devices, have.Devices):
		return fmt.Errorf("the guest's devices were %.512v, this machine's are %v", v.Devices, have.Devices)
	}
	return nil
}

// cpuState is the section of a vCPU.
type cpuState struct {
	c    *vcpu.VCPU
	msrs []uint32
	load loading
}

func (s *cpuState) StateVersion() uint32            { return vcpu.StateVersion }
func (s *cpuState) SaveState() (any, error)         { return s.c.Save(s.msrs) }
func (s *cpuState) LoadState(d state.Decoder) error { return s.c.Load(d, s.load.options()) }

// Regions returns the RAM in address order; see memory.Guest.Regions.
func (m *Machine) Regions() []memory.Region { return m.mem.Regions() }

// Size returns the amount of RAM in bytes.
func (m *Machine) Size() uint64 { return m.mem.Size() }

// MemoryFD returns the file behind the RAM, or -1; see memory.Guest.FD.
func (m *Machine) MemoryFD() int { return m.mem.FD() }

// SetMemoryLate says whether pages of RAM may be missing that another process fills
// in; see memory.Guest.SetLate.
func (m *Machine) SetMemoryLate(on bool) { m.mem.SetLate(on) }

// MakeHuge puts a huge page behind RAM; see memory.Guest.MakeHuge.
func (m *Machine) MakeHuge(a memory.GPA) error { return m.mem.MakeHuge(a) }

// Discard gives pages of RAM back to the host; see memory.Guest.Discard.
func (m *Machine) Discard(a memory.GPA, n uint64) error { return m.mem.Discard(a, n) }
