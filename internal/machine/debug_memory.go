package machine

import (
	"encoding/binary"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/vcpu/paging"
)

// tableEntry is a paging.Reader of this machine's RAM.
func (m *Machine) tableEntry(gpa uint64, size int) (uint64, error) {
	var b [8]byte
	if err := m.mem.ReadAt(b[:size], memory.GPA(gpa)); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// ReadMemory implements gdbstub.Target.
func (d *Debugger) ReadMemory(cpu int, addr uint64, p []byte) (int, error) {
	done := 0
	err := d.pages(cpu, addr, p, func(gpa memory.GPA, piece []byte) error {
		if err := d.m.mem.ReadAt(piece, gpa); err != nil {
			return err
		}
		d.hide(gpa, piece)
		done += len(piece)
		return nil
	})
	if done > 0 {
		err = nil // gdb is told by the length
	}
	return done, err
}

// WriteMemory implements gdbstub.Target.
func (d *Debugger) WriteMemory(cpu int, addr uint64, p []byte) error {
	return d.pages(cpu, addr, p, func(gpa memory.GPA, piece []byte) error {
		return d.m.mem.WriteAt(d.keep(gpa, piece), gpa)
	})
}

// pages cuts p, which is at a virtual address, into what is in one page each.
func (d *Debugger) pages(cpu int, addr uint64, p []byte, do func(gpa memory.GPA, piece []byte) error) error {
	mode, err := d.m.mode(cpu)
	if err != nil {
		return err
	}
	for len(p) > 0 {
		gpa, err := d.m.translate(mode, addr)
		if err != nil {
			return err
		}
		n := min(memory.PageSize-addr%memory.PageSize, uint64(len(p)))
		if err := do(gpa, p[:n]); err != nil {
			return err
		}
		p, addr = p[n:], addr+n
	}
	return nil
}

// translate finds a virtual address in RAM.
func (m *Machine) translate(mode paging.Mode, va uint64) (memory.GPA, error) {
	p, err := paging.Translate(mode, m.tableEntry, va)
	return memory.GPA(p.GPA + va - p.Virtual), err
}
