package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// decision is what happens to one system call: the first rule whose conditions
// hold, else the last answer.
type decision struct {
	rules []rule // with conditions
	last  uint32
}

func (d decision) same(e decision) bool {
	return d.last == e.last && len(d.rules) == 0 && len(e.rules) == 0
}

// numbers is more than any table of system calls has.
const numbers = 1024

// collected is what a profile's rules say of one number so far.
type collected struct {
	rules     []rule // with conditions
	last      uint32 // of the first rule without
	some, any bool   // whether there is a rule, and one without conditions
}

func (c *collected) add(conds []cond, ret uint32) {
	c.some = true
	switch {
	case len(conds) > 0:
		c.rules = append(c.rules, rule{conds, ret})
	case !c.any:
		c.last, c.any = ret, true
	}
}

// decision joins the rules; base is for calls that none of them fits.
func (c *collected) decision(base uint32) decision {
	d := decision{c.rules, base}
	if c.any {
		d.last = c.last
	}
	for len(d.rules) > 0 && d.rules[len(d.rules)-1].ret == d.last { // it changes nothing
		d.rules = d.rules[:len(d.rules)-1]
	}
	return d
}

// collect sorts the rules by number, without the architecture's bit. highest
// is the greatest number that the profile names.
func (p *profile) collect(a arch) (all []collected, highest int) {
	all, highest = make([]collected, numbers), none
	for _, e := range p.entries {
		sets := e.sets
		if a.narrow {
			sets = narrow(sets)
		}
		for _, c := range e.calls {
			nr := none
			if c.syscall != nil {
				nr = int(a.number(c.syscall))
			}
			highest = max(highest, nr)
			for _, set := range sets {
				if nr != none {
					all[nr].add(set, e.ret)
				}
				if a.narrow && c.also.via != nil && len(set) == 0 {
					m := cond{arg: 0, op: specs.OpMaskedEqual, v: multiplexerMask, want: c.also.call}
					all[a.number(c.also.via)].add([]cond{m}, e.ret)
				}
			}
		}
	}
	return all, highest
}

// hidesNewer tells whether calls that the profile's author cannot have known
// are to look as if the kernel did not have them.
func (p *profile) hidesNewer() bool {
	return len(p.entries) > 0 && (p.base&0xffff0000 == retErrno || slices.Contains([]uint32{retKillProcess, retKillThread, retTrap}, p.base))
}

// narrow makes conditions for arguments of 32 bits: only those are compared.
func narrow(sets [][]cond) [][]cond {
	out := make([][]cond, len(sets))
	for i, set := range sets {
		out[i] = slices.Clone(set)
		for j := range out[i] {
			out[i][j].v &= 0xffffffff
			out[i][j].want &= 0xffffffff
		}
	}
	return out
}

// span is a run of numbers with one decision, from first to the next span's.
type span struct {
	first uint32
	decision
}

// spans are the decisions of an architecture in order, without gaps: each up
// to the next one, the last for all numbers above.
func (p *profile) spans(a arch) []span {
	all, highest := p.collect(a)
	newer := p.base
	if p.hidesNewer() {
		newer = retErrno | uint32(unix.ENOSYS)
	}
	var out []span
	for nr := range all {
		d := decision{last: newer}
		if nr <= highest || all[nr].some {
			d = all[nr].decision(p.base)
		}
		if n := len(out); n == 0 || !out[n-1].same(d) {
			out = append(out, span{uint32(nr) | a.bit, d})
		}
	}
	return out
}
