package pci

import (
	"encoding/binary"

	"github.com/hvctl/hvctl/internal/bus"
)

// ECAM returns the handler of the memory-mapped configuration window. Give it
// ECAMSize bytes per bus of the MCFG table, no more: buses other than 0 read as
// all ones.
func (b *Bus) ECAM() bus.Handler { return ecam{b} }

type ecam struct{ b *Bus }

// at splits an offset (PCI Express 5.0, table 7-1). Extended configuration
// space does not exist: the functions are conventional ones.
func (e ecam) at(off uint64) (f *Function, reg uint64) {
	return e.b.function(off>>20, off>>15&31, off>>12&7), off & 0xfff
}

func (e ecam) ReadAt(off uint64, data []byte) {
	if f, reg := e.at(off); f != nil {
		f.ReadConfig(reg, data)
	}
}

func (e ecam) WriteAt(off uint64, data []byte) {
	if f, reg := e.at(off); f != nil {
		f.WriteConfig(reg, data)
	}
}

const (
	// PortBase is the first I/O port of configuration mechanism 1.
	PortBase = 0xcf8
	// PortCount is the number of its ports.
	PortCount = 8
)

// Ports returns the handler of configuration mechanism 1 (PCI 3.0, 3.2.2.3).
// Port 0xcf9 lies inside the range but is another device, the reset control:
// its byte accesses go to cf9 with offset 0, or nowhere when it is nil.
func (b *Bus) Ports(cf9 bus.Handler) bus.Handler { return ports{b, cf9} }

type ports struct {
	b   *Bus
	cf9 bus.Handler
}

// target returns what an access to the data ports means.
func (p ports) target(off uint64, n int) (f *Function, reg uint64) {
	p.b.mu.Lock()
	a := uint64(p.b.index)
	p.b.mu.Unlock()
	lane := off - 4
	if a>>31 == 0 || a>>24&0x7f != 0 || lane+uint64(n) > 4 {
		return nil, 0
	}
	return p.b.function(a>>16&0xff, a>>11&31, a>>8&7), a&0xfc + lane
}

func (p ports) ReadAt(off uint64, data []byte) {
	switch {
	case off == 0 && len(data) == 4:
		p.b.mu.Lock()
		defer p.b.mu.Unlock()
		binary.LittleEndian.PutUint32(data, p.b.index)
	case off == 1 && len(data) == 1 && p.cf9 != nil:
		p.cf9.ReadAt(0, data)
	case off >= 4:
		if f, reg := p.target(off, len(data)); f != nil {
			f.ReadConfig(reg, data)
		}
	}
}

func (p ports) WriteAt(off uint64, data []byte) {
	switch {
	case off == 0 && len(data) == 4:
		p.b.mu.Lock()
		defer p.b.mu.Unlock()
		p.b.index = binary.LittleEndian.Uint32(data) &^ 3
	case off == 1 && len(data) == 1 && p.cf9 != nil:
		p.cf9.WriteAt(0, data)
	case off >= 4:
		if f, reg := p.target(off, len(data)); f != nil {
			f.WriteConfig(reg, data)
		}
	}
}
