package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"os"

	"github.com/hvctl/hvctl/internal/coredump"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/vcpu/paging"
)

// maxTables bounds the page tables that are read for a core file: with 4 KiB
// pages they map 64 GiB.
const maxTables = 32 << 10

// kernelText is where the last 2 GiB of the address space begin, in which
// kernels are linked.
const kernelText = 0xffff_ffff_8000_0000

// Dump writes the guest to f, an empty file, as an ELF core (package coredump).
// It is paused meanwhile, unless it is already. It works while a debugger is
// attached, and in Config.Ending. The error wraps ErrEnded when there is nothing
// to dump any more.
func (m *Machine) Dump(ctx context.Context, f *os.File) (r coredump.Report, err error) {
	if !m.Paused() {
		if err := m.Pause(ctx); err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, m.Resume(context.WithoutCancel(ctx))) }()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.ended.Load() {
		return r, ErrEnded
	}
	g := coredump.Guest{Regions: m.mem.Regions(), FD: m.mem.FD()}
	view, supervisor := paging.Mode{}, false
	for _, c := range m.cpus {
		var cpu coredump.CPU
		var mode paging.Mode
		err := c.Do(func(c *kvm.VCPU) (err error) { cpu, mode, err = dumpCPU(c); return err })
		if err != nil {
			return r, m.orEnded(err)
		}
		// A CPU in user mode may have tables with little of the kernel in them.
		if super := cpu.CS.Selector&3 == 0; c.Index() == 0 || super && !supervisor {
			view, supervisor = mode, super
		}
		g.CPUs = append(g.CPUs, cpu)
	}
	g.Maps = m.kernelMaps(view)
	return coredump.Write(ctx, f, g)
}

// dumpCPU runs on the vCPU's thread.
func dumpCPU(c *kvm.VCPU) (d coredump.CPU, mode paging.Mode, err error) {
	k, err := c.Regs()
	if err != nil {
		return d, mode, err
	}
	s, err := c.Sregs()
	if err != nil {
		return d, mode, err
	}
	f, err := c.FPU()
	if err != nil {
		return d, mode, err
	}
	d = coredump.CPU{
		RAX: k.RAX, RBX: k.RBX, RCX: k.RCX, RDX: k.RDX, RSI: k.RSI, RDI: k.RDI, RSP: k.RSP, RBP: k.RBP,
		R8: k.R8, R9: k.R9, R10: k.R10, R11: k.R11, R12: k.R12, R13: k.R13, R14: k.R14, R15: k.R15, RIP: k.RIP, RFLAGS: k.RFLAGS,
		CS: dumpSegment(s.CS), DS: dumpSegment(s.DS), ES: dumpSegment(s.ES), FS: dumpSegment(s.FS), GS: dumpSegment(s.GS), SS: dumpSegment(s.SS),
		LDT: dumpSegment(s.LDT), TR: dumpSegment(s.TR),
		GDT: coredump.Segment{Base: s.GDT.Base, Limit: uint32(s.GDT.Limit)}, IDT: coredump.Segment{Base: s.IDT.Base, Limit: uint32(s.IDT.Limit)},
		CR0: s.CR0, CR2: s.CR2, CR3: s.CR3, CR4: s.CR4, FPU: fxsave(&f),
	}
	msr := []kvm.MSREntry{{Index: kvm.MSRKernelGSBase}}
	if n, err := c.MSRs(msr); err == nil && n == 1 {
		d.KernelGSBase = msr[0].Data
	}
	return d, paging.Mode{CR0: s.CR0, CR3: s.CR3, CR4: s.CR4, EFER: s.EFER}, nil
}

// dumpSegment puts the attributes where a descriptor has them.
func dumpSegment(s kvm.Segment) coredump.Segment {
	bit := func(v uint8, n uint) uint32 { return uint32(v&1) << n }
	flags := uint32(s.Type&15)<<8 | bit(s.S, 12) | uint32(s.DPL&3)<<13 | bit(s.Present, 15) | bit(s.AVL, 20) | bit(s.L, 21) | bit(s.DB, 22) | bit(s.G, 23)
	return coredump.Segment{Selector: uint32(s.Selector), Limit: s.Limit, Base: s.Base, Flags: flags}
}

// fxsave is the legacy region of the FPU's state (SDM vol. 1, 10.5.1).
func fxsave(f *kvm.FPU) (b [512]byte) {
	le := binary.LittleEndian
	le.PutUint16(b[0:], f.FCW)
	le.PutUint16(b[2:], f.FSW)
	b[4] = f.FTWX
	le.PutUint16(b[6:], f.LastOpcode)
	le.PutUint64(b[8:], f.LastIP)
	le.PutUint64(b[16:], f.LastDP)
	le.PutUint32(b[24:], f.MXCSR)
	for i := range f.FPR {
		copy(b[32+16*i:], f.FPR[i][:])
	}
	for i := range f.XMM {
		copy(b[160+16*i:], f.XMM[i][:])
	}
	return b
}

// kernelMaps returns what the guest's kernel maps of RAM, neighbours joined. Of
// what a hostile one maps it returns a part; room is kept for the kernel itself.
func (m *Machine) kernelMaps(mode paging.Mode) (maps []coredump.Mapping) {
	// The error says that there is more than is returned: no reason not to dump.
	_ = paging.Each(mode, m.tableEntry, maxTables, func(p paging.Page) bool {
		size := min(p.Size, m.ramFrom(memory.GPA(p.GPA)))
		if size == 0 {
			return true // a device
		}
		if n := len(maps); n > 0 {
			last := &maps[n-1]
			if last.Virtual+last.Size == p.Virtual && uint64(last.GPA)+last.Size == p.GPA && m.ramFrom(last.GPA) >= last.Size+size {
				last.Size += size
				return true
			}
		}
		if room := coredump.MaxMaps - len(maps); room == 0 {
			return false
		} else if p.Virtual >= kernelText || room > coredump.MaxMaps/2 {
			maps = append(maps, coredump.Mapping{Virtual: p.Virtual, GPA: memory.GPA(p.GPA), Size: size})
		}
		return true
	})
	return maps
}

// ramFrom is how many bytes of RAM there are from an address to the end of its
// region.
func (m *Machine) ramFrom(a memory.GPA) uint64 {
	for _, r := range m.mem.Regions() {
		if a >= r.GPA && uint64(a-r.GPA) < r.Size {
			return r.Size - uint64(a-r.GPA)
		}
	}
	return 0
}
