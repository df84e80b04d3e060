package cgroup

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// insn is struct bpf_insn: opcode, registers, jump offset, constant
// (Documentation/bpf/standardization/instruction-set.rst).
type insn struct {
	op       uint8
	dst, src uint8
	off      int16
	imm      int32
}

// The opcodes that the program needs.
const (
	opLoad    = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W   // dst = *(u32 *)(src + off)
	opAnd     = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K   // dst &= imm
	opShift   = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K   // dst >>= imm
	opMove    = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K // dst = imm
	opNotSame = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K   // if dst != imm goto off
	opAnyBit  = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K  // if dst & imm goto off
	opGoto    = unix.BPF_JMP | unix.BPF_JA                 // goto off
	opExit    = unix.BPF_JMP | unix.BPF_EXIT               // return r0
)

// What the program keeps in its registers. regAccess has the accesses that no
// rule has decided yet.
const (
	regAnswer = 0
	regCtx    = 1
	regKind   = 2
	regAccess = 3
	regMajor  = 4
	regMinor  = 5
)

// Offsets in struct bpf_cgroup_dev_ctx.
const (
	ctxAccessType = 0 // access << 16 | kind
	ctxMajor      = 4
	ctxMinor      = 8
)

// deviceProgram is a BPF_PROG_TYPE_CGROUP_DEVICE program that answers as the
// rules say. It asks the last rule first: an allowing rule takes its accesses
// off the list of those in question, and the answer is yes when none is left; a
// denying one answers no when one of its own is in question.
func deviceProgram(rules []deviceRule) []insn {
	p := []insn{
		{op: opLoad, dst: regKind, src: regCtx, off: ctxAccessType},
		{op: opAnd, dst: regKind, imm: 0xffff},
		{op: opLoad, dst: regAccess, src: regCtx, off: ctxAccessType},
		{op: opShift, dst: regAccess, imm: 16},
		{op: opLoad, dst: regMajor, src: regCtx, off: ctxMajor},
		{op: opLoad, dst: regMinor, src: regCtx, off: ctxMinor},
	}
	for _, r := range slices.Backward(rules) {
		p = append(p, ruleProgram(r)...)
	}
	return append(p, insn{op: opMove, dst: regAnswer, imm: 0}, insn{op: opExit})
}

// ruleProgram is one rule; what it does not decide falls through.
func ruleProgram(r deviceRule) []insn {
	var p []insn
	if r.kind != devAny {
		p = append(p, insn{op: opNotSame, dst: regKind, imm: int32(r.kind)})
	}
	if r.major != anyNumber {
		p = append(p, insn{op: opNotSame, dst: regMajor, imm: int32(r.major)})
	}
	if r.minor != anyNumber {
		p = append(p, insn{op: opNotSame, dst: regMinor, imm: int32(r.minor)})
	}
	conditions := len(p)
	if r.allow {
		p = append(p,
			insn{op: opAnd, dst: regAccess, imm: int32(^r.access & accAll)},
			insn{op: opNotSame, dst: regAccess, imm: 0, off: 2},
			insn{op: opMove, dst: regAnswer, imm: 1},
			insn{op: opExit})
	} else {
		p = append(p,
			insn{op: opAnyBit, dst: regAccess, imm: int32(r.access), off: 1},
			insn{op: opGoto, off: 2},
			insn{op: opMove, dst: regAnswer, imm: 0},
			insn{op: opExit})
	}
	for i := range conditions {
		p[i].off = int16(len(p) - i - 1)
	}
	return p
}

// encode is the program as the kernel reads it.
func encode(p []insn) []byte {
	b := make([]byte, 0, 8*len(p))
	for _, i := range p {
		b = append(b, i.op, i.dst|i.src<<4)
		b = binary.NativeEndian.AppendUint16(b, uint16(i.off))
		b = binary.NativeEndian.AppendUint32(b, uint32(i.imm))
	}
	return b
}
