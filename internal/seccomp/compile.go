package seccomp

import (
	"encoding/binary"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Program is a compiled profile.
type Program struct {
	// Filter is an array of struct sock_filter.
	Filter []byte
	// Flags are for seccomp(2). They have SECCOMP_FILTER_FLAG_NEW_LISTENER when
	// the profile notifies: the load then returns a descriptor.
	Flags uint32
	// Unknown are the profile's names that no architecture has, as far as we
	// know.
	Unknown []string
}

// maxInstructions is the kernel's BPF_MAXINSNS.
const maxInstructions = 4096

// Compile checks a profile and makes a program of it. Errors wrap ErrProfile
// and have the field's path.
func Compile(s *specs.LinuxSeccomp) (*Program, error) {
	p, err := read(s)
	if err != nil {
		return nil, err
	}
	code := p.program()
	if len(code) > maxInstructions {
		return nil, bad("syscalls", "it needs %d instructions, the kernel takes %d", len(code), maxInstructions)
	}
	return &Program{Filter: encode(code), Flags: p.flags, Unknown: p.unknown}, nil
}

// Len is the number of instructions.
func (p *Program) Len() int { return len(p.Filter) / insnSize }

// Notifies tells whether loading returns a listener.
func (p *Program) Notifies() bool { return p.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 }

// insn is struct sock_filter.
type insn struct {
	op     uint16
	jt, jf uint8 // how many instructions to skip when the test holds, and when not
	k      uint32
}

const insnSize = 8

// Offsets in struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// The instructions that filters are made of.
const (
	opLoad  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opAbove = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opFrom  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opGoto  = unix.BPF_JMP | unix.BPF_JA
	opRet   = unix.BPF_RET | unix.BPF_K
)

// program is the filter: which interface, then which call, then its arguments.
func (p *profile) program() []insn {
	var low, high, wide []insn // i386, x32, x86-64
	for _, a := range p.arches {
		code := search(p.spans(a))
		switch {
		case a.narrow:
			low = code
		case a.bit != 0:
			high = code
		default:
			wide = code
		}
	}
	kill := []insn{{op: opRet, k: retKillProcess}}
	if high == nil {
		// -1 has the bit, too, but is how a tracer skips a call.
		high = append([]insn{{op: opEqual, jt: 1, k: 0xffffffff}}, kill...)
		high = append(high, insn{op: opRet, k: p.skipped()})
	}
	code := []insn{{op: opLoad, k: offNumber}}
	code = append(code, either(insn{op: opFrom, k: x32Bit}, high, wide)...)
	other := kill
	if low != nil {
		low = append([]insn{{op: opLoad, k: offNumber}}, low...)
		other = either(insn{op: opEqual, k: i386.audit}, low, kill)
	}
	return append([]insn{{op: opLoad, k: offArch}}, either(insn{op: opEqual, k: amd64.audit}, code, other)...)
}

// skipped is the answer to the number -1.
func (p *profile) skipped() uint32 {
	if p.hidesNewer() {
		return retErrno | uint32(unix.ENOSYS)
	}
	return p.base
}

// search is a binary search over the spans, which are in order.
func search(s []span) []insn {
	if len(s) == 1 {
		return decide(s[0].decision)
	}
	mid := len(s) / 2
	return either(insn{op: opFrom, k: s[mid].first}, search(s[mid:]), search(s[:mid]))
}

// either goes to yes when the test holds, else to no. Conditional jumps reach
// 255 instructions, the unconditional one everything.
func either(test insn, yes, no []insn) []insn {
	out := make([]insn, 0, 2+len(yes)+len(no))
	if len(no) <= 255 {
		test.jt, test.jf = uint8(len(no)), 0
		return append(append(append(out, test), no...), yes...)
	}
	test.jt, test.jf = 0, 1
	return append(append(append(out, test, insn{op: opGoto, k: uint32(len(no))}), no...), yes...)
}

// decide tests a call's rules in order.
func decide(d decision) []insn {
	var out []insn
	for _, r := range d.rules {
		out = append(out, r.code()...)
	}
	return append(out, insn{op: opRet, k: d.last})
}

// Targets of a condition's jumps until it is known how far they are.
const (
	toFail = 254 // behind the rule
	toPass = 255 // behind the condition
)

// code answers when all conditions hold, and falls through when not.
func (r rule) code() []insn {
	var out []insn
	var ends []int // behind the condition that each instruction belongs to
	for _, c := range r.conds {
		out = append(out, c.code()...)
		for len(ends) < len(out) {
			ends = append(ends, len(out))
		}
	}
	out = append(out, insn{op: opRet, k: r.ret})
	for i := range ends {
		for _, j := range []*uint8{&out[i].jt, &out[i].jf} {
			switch *j {
			case toFail:
				*j = uint8(len(out) - i - 1) // at most 6 conditions of 6
			case toPass:
				*j = uint8(ends[i] - i - 1)
			}
		}
	}
	return out
}

// code compares a 64-bit argument, half by half; the registers of BPF have 32
// bits. The last instruction passes by falling through.
func (c cond) code() []insn {
	low := insn{op: opLoad, k: offArgs + 8*uint32(c.arg)} // x86 is little-endian
	high := insn{op: opLoad, k: low.k + 4}
	h, l := uint32(c.v>>32), uint32(c.v)
	test := func(op uint16, k uint32, jt, jf uint8) insn { return insn{op: op, k: k, jt: jt, jf: jf} }
	switch c.op {
	case specs.OpEqualTo:
		return []insn{high, test(opEqual, h, 0, toFail), low, test(opEqual, l, 0, toFail)}
	case specs.OpNotEqual:
		return []insn{high, test(opEqual, h, 0, toPass), low, test(opEqual, l, toFail, 0)}
	case specs.OpGreaterThan:
		return []insn{high, test(opAbove, h, toPass, 0), test(opEqual, h, 0, toFail), low, test(opAbove, l, 0, toFail)}
	case specs.OpGreaterEqual:
		return []insn{high, test(opAbove, h, toPass, 0), test(opEqual, h, 0, toFail), low, test(opFrom, l, 0, toFail)}
	case specs.OpLessEqual:
		return []insn{high, test(opAbove, h, toFail, 0), test(opEqual, h, 0, toPass), low, test(opAbove, l, toFail, 0)}
	case specs.OpLessThan:
		return []insn{high, test(opAbove, h, toFail, 0), test(opEqual, h, 0, toPass), low, test(opFrom, l, toFail, 0)}
	default: // masked; readArgs knows no other
		return []insn{
			high,
			{op: opAnd, k: h},
			test(opEqual, uint32(c.want>>32), 0, toFail),
			low,
			{op: opAnd, k: l},
			test(opEqual, uint32(c.want), 0, toFail),
		}
	}
}

func encode(p []insn) []byte {
	b := make([]byte, 0, insnSize*len(p))
	for _, i := range p {
		b = binary.NativeEndian.AppendUint16(b, i.op)
		b = append(b, i.jt, i.jf)
		b = binary.NativeEndian.AppendUint32(b, i.k)
	}
	return b
}
