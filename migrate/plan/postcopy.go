package plan

import "fmt"

// WarnPostCopy says what it means that memory may follow after the hand-over: atOnce,
// in any case; else only for a workload that writes faster than the link carries.
func (p *Plan) WarnPostCopy(atOnce bool) {
	when := "if it writes faster than the link carries, its memory follows after the hand-over"
	if atOnce {
		when = "its memory follows after the hand-over"
	}
	var ram uint64
	for _, r := range p.Rows {
		if r.Kind == RAM {
			ram += r.Bytes
		}
	}
	p.Warnings = append(p.Warnings, fmt.Sprintf("post-copy: %s (%d MiB at most). Until all has arrived it depends on both hosts: if either of them, or the process that has it there, ends, it is lost; "+
		"if the link breaks, it stands still, and is lost when the source has not come back for 10 minutes. It cannot be called back in that time", when, ram>>20))
}
