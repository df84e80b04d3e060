package gdbstub

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
)

// Regs are the registers of one CPU.
type Regs struct {
	// GP is rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8 to r15.
	GP        [16]uint64
	RIP       uint64
	RFLAGS    uint32
	Seg       [6]uint32 // selectors: cs, ss, ds, es, fs, gs
	ST        [8][10]byte
	FPU       [8]uint32 // fctrl, fstat, ftag, fiseg, fioff, foseg, fooff, fop
	XMM       [16][16]byte
	MXCSR     uint32
	FSBase    uint64
	GSBase    uint64
	KernelGS  uint64 // what swapgs exchanges with GSBase
	CR0, CR2  uint64
	CR3, CR4  uint64
	CR8, EFER uint64
}

// register is one line of the target's description.
type register struct {
	name    string
	bits    int
	typ     string
	feature string
	bytes   func(r *Regs, p []byte, set bool) // copies to p, or from it
}

const (
	core     = "org.gnu.gdb.i386.core"
	sse      = "org.gnu.gdb.i386.sse"
	segments = "org.gnu.gdb.i386.segments"
	system   = "org.hvctl.x86.system"
)

// registers is every register in the order of a g packet: as gdb's own
// descriptions have them (gdb/features/i386), then those of the system. Made
// when a debugger first asks, not whenever a VM starts.
var registers = sync.OnceValue(func() (all []register) {
	r64 := func(feature, name, typ string, at func(*Regs) *uint64) {
		all = append(all, register{name, 64, typ, feature, func(r *Regs, p []byte, set bool) {
			if set {
				*at(r) = binary.LittleEndian.Uint64(p)
			} else {
				binary.LittleEndian.PutUint64(p, *at(r))
			}
		}})
	}
	r32 := func(feature, name, typ string, at func(*Regs) *uint32) {
		all = append(all, register{name, 32, typ, feature, func(r *Regs, p []byte, set bool) {
			if set {
				*at(r) = binary.LittleEndian.Uint32(p)
			} else {
				binary.LittleEndian.PutUint32(p, *at(r))
			}
		}})
	}
	raw := func(feature, name string, bits int, typ string, at func(*Regs) []byte) {
		all = append(all, register{name, bits, typ, feature, func(r *Regs, p []byte, set bool) {
			if set {
				copy(at(r), p)
			} else {
				copy(p, at(r))
			}
		}})
	}
	for i, name := range strings.Fields("rax rbx rcx rdx rsi rdi rbp rsp r8 r9 r10 r11 r12 r13 r14 r15") {
		typ := "int64"
		if name == "rbp" || name == "rsp" {
			typ = "data_ptr"
		}
		r64(core, name, typ, func(r *Regs) *uint64 { return &r.GP[i] })
	}
	r64(core, "rip", "code_ptr", func(r *Regs) *uint64 { return &r.RIP })
	r32(core, "eflags", "int32", func(r *Regs) *uint32 { return &r.RFLAGS })
	for i, name := range strings.Fields("cs ss ds es fs gs") {
		r32(core, name, "int32", func(r *Regs) *uint32 { return &r.Seg[i] })
	}
	for i := range 8 {
		raw(core, fmt.Sprintf("st%d", i), 80, "i387_ext", func(r *Regs) []byte { return r.ST[i][:] })
	}
	for i, name := range strings.Fields("fctrl fstat ftag fiseg fioff foseg fooff fop") {
		r32(core, name, "int", func(r *Regs) *uint32 { return &r.FPU[i] })
	}
	for i := range 16 {
		raw(sse, fmt.Sprintf("xmm%d", i), 128, "uint128", func(r *Regs) []byte { return r.XMM[i][:] })
	}
	r32(sse, "mxcsr", "int", func(r *Regs) *uint32 { return &r.MXCSR })
	r64(segments, "fs_base", "int", func(r *Regs) *uint64 { return &r.FSBase })
	r64(segments, "gs_base", "int", func(r *Regs) *uint64 { return &r.GSBase })
	r64(system, "k_gs_base", "int", func(r *Regs) *uint64 { return &r.KernelGS })
	r64(system, "cr0", "int", func(r *Regs) *uint64 { return &r.CR0 })
	r64(system, "cr2", "int", func(r *Regs) *uint64 { return &r.CR2 })
	r64(system, "cr3", "int", func(r *Regs) *uint64 { return &r.CR3 })
	r64(system, "cr4", "int", func(r *Regs) *uint64 { return &r.CR4 })
	r64(system, "cr8", "int", func(r *Regs) *uint64 { return &r.CR8 })
	r64(system, "efer", "int", func(r *Regs) *uint64 { return &r.EFER })
	return all
})

// regsSize is the length of a g packet's data in bytes.
func regsSize() (n int) {
	for _, r := range registers() {
		n += r.bits / 8
	}
	return n
}

// encode returns every register as a g packet has them.
func (r *Regs) encode() []byte {
	out, at := make([]byte, regsSize()), 0
	for _, reg := range registers() {
		n := reg.bits / 8
		reg.bytes(r, out[at:at+n], false)
		at += n
	}
	return out
}

// decode takes what a G packet says: as many registers as it has.
func (r *Regs) decode(p []byte) {
	for _, reg := range registers() {
		n := reg.bits / 8
		if len(p) < n {
			return
		}
		reg.bytes(r, p[:n], true)
		p = p[n:]
	}
}

// targetXML describes the registers to gdb.
func targetXML() string {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd">` +
		`<target version="1.0"><architecture>i386:x86-64</architecture>`)
	feature := ""
	for i, r := range registers() {
		if r.feature != feature {
			if feature != "" {
				b.WriteString("</feature>")
			}
			feature = r.feature
			fmt.Fprintf(&b, `<feature name="%s">`, feature)
		}
		fmt.Fprintf(&b, `<reg name="%s" bitsize="%d" type="%s" regnum="%d"/>`, r.name, r.bits, r.typ, i)
	}
	b.WriteString("</feature></target>")
	return b.String()
}
