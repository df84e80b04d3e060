package machine

import (
	"context"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio/mem"
)

// memID is what the device is called that gives and takes memory.
const memID = "mem"

const (
	// memSection is what Linux adds and removes memory by: where the region begins
	// and ends.
	memSection = 128 << 20
	// memBlock is the unit that a guest is given. Linux gives single blocks back, also
	// of memory that is in use around them, when they are not smaller than its largest
	// page blocks, which have 4 MiB in older kernels.
	memBlock = 4 << 20
	// maxMemBlocks bounds the mappings that a guest can make of us, of which a process
	// has 65530: each block may differ from its neighbours.
	maxMemBlocks = 32 << 10
)

// pluggable returns where the memory is that the guest may be given later, and its
// blocks' size; nothing where there is none.
func (c *Config) pluggable() (at memory.Span, block uint64) {
	if c.MaxMemoryBytes <= c.MemoryBytes {
		return memory.Span{}, 0
	}
	end := memory.GPA(c.MemoryBytes)
	if end > memory.HoleStart {
		end += memory.HoleEnd - memory.HoleStart
	}
	up := func(n, unit uint64) uint64 { return (n + unit - 1) / unit * unit }
	at.GPA = memory.GPA(up(max(uint64(end), uint64(memory.HoleEnd)), mappedAlign))
	at.Size = up(c.MaxMemoryBytes-c.MemoryBytes, memSection)
	block = memBlock
	for at.Size/block > maxMemBlocks {
		block *= 2
	}
	return at, block
}

// fits tells whether that is below the 64-bit PCI window.
func (c *Config) fits() bool {
	at, _ := c.pluggable()
	return uint64(at.GPA)+at.Size <= uint64(pci64Base)
}

// attachMem adds the device that gives and takes memory, where there is any to give.
func (m *Machine) attachMem() error {
	p := m.mem.Pluggable()
	if p == nil {
		return nil
	}
	m.memory = mem.New(p)
	if err := m.attach(m.memory, memID); err != nil {
		return fmt.Errorf("device %s: %w", memID, err)
	}
	return nil
}

// Memory is how much memory a guest has, in bytes.
type Memory struct {
	Now       uint64 // it has
	Requested uint64 // it was asked to have; Now comes there, or does not
	Most      uint64 // it can be given
}

// Memory returns how much memory the guest has.
func (m *Machine) Memory() Memory {
	boot := m.cfg.MemoryBytes
	if m.memory == nil {
		return Memory{boot, boot, boot}
	}
	s := m.memory.State()
	return Memory{boot + s.Plugged, boot + s.Requested, m.cfg.MaxMemoryBytes}
}

// SetMemory has a running guest have that many bytes of memory, rounded up to a block,
// and waits until it does, until it has come no nearer for the time idle, or until ctx
// ends. What it has by then is what it keeps: it is asked for no more, and the error says how
// much that is. Errors wrap ErrPlug, ErrUntaken or ErrEnded.
func (m *Machine) SetMemory(ctx context.Context, bytes uint64, idle time.Duration) error {
	want, err := m.requestMemory(bytes)
	if err != nil || m.memory == nil {
		return err
	}
	patience := time.NewTimer(idle)
	defer patience.Stop()
	for left := ^uint64(0); ; {
		s := m.memory.State()
		if s.Plugged == want {
			return nil
		}
		if now := max(s.Plugged, want) - min(s.Plugged, want); now < left {
			left = now
			patience.Reset(idle)
		}
		select {
		case <-s.Changed:
			continue
		case <-patience.C:
		case <-ctx.Done():
		}
		has := m.memory.Settle()
		switch {
		case has == want:
			return nil
		case !s.Driven:
			return fmt.Errorf("%w: the memory is as before: no driver has taken the device; is the guest's kernel still starting, or without CONFIG_VIRTIO_MEM?", ErrUntaken)
		case has > want:
			return fmt.Errorf("%w: the guest has given back what it could, and keeps %d MiB in all: the rest is in use, or cannot be moved", ErrUntaken, (m.cfg.MemoryBytes+has)>>20)
		}
		return fmt.Errorf("%w: the guest has taken memory up to %d MiB, and no more", ErrUntaken, (m.cfg.MemoryBytes+has)>>20)
	}
}

// requestMemory tells the device what SetMemory wants, and returns that in bytes of
// the region.
func (m *Machine) requestMemory(bytes uint64) (want uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	no := func(format string, args ...any) (uint64, error) {
		return 0, fmt.Errorf("%w: "+format, append([]any{ErrPlug}, args...)...)
	}
	boot, most := m.cfg.MemoryBytes, max(m.cfg.MemoryBytes, m.cfg.MaxMemoryBytes)
	switch {
	case m.closed || m.ended.Load():
		return 0, ErrEnded
	case bytes < boot || bytes > most:
		return no("%d MiB of memory; the machine was made for %d to %d (--memory, --max-memory)", bytes>>20, boot>>20, most>>20)
	case m.memory == nil:
		return 0, nil // it has as much as it can
	case m.paused.Load() || !m.entered:
		return no("the machine is paused; resume it first")
	case m.logging:
		return no("the machine is being saved or sent")
	}
	block := m.mem.Pluggable().BlockSize()
	want = (bytes - boot + block - 1) / block * block
	if err := m.memory.Request(want); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrPlug, err)
	}
	return want, nil
}

// lacked adds to an error of KVM_RUN, of a guest that may touch memory that it was not
// given, that it may have.
func (m *Machine) lacked(err error) error {
	if m.memory == nil {
		return err
	}
	return fmt.Errorf("%w: the guest touched memory that it does not have, unless the host has none left: of the region of device %s it has %d of %d MiB",
		err, memID, m.mem.Pluggable().Plugged()>>20, m.mem.Pluggable().Span().Size>>20)
}
