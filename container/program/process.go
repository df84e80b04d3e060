package program

import (
	"encoding/binary"
	"strconv"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// execute is the step that ends the program, which comes first: others set its
// path and go to it.
func (b *builder) execute(p *plan.Process) (execve *steps.Label) {
	var begin steps.Label
	execve = new(steps.Label)
	b.Go(&begin)
	b.Here(execve)
	what, args, env := "exec: "+strconv.Quote(p.Args[0]), uint64(b.Strings(p.Args)), uint64(b.Strings(p.Env))
	if p.ByFD {
		b.Call(what, unix.SYS_EXECVEAT, 3, b.text(""), args, env, unix.AT_EMPTY_PATH)
	} else {
		b.path = b.Call(what, unix.SYS_EXECVE, 0, args, env).Arg(0)
	}
	b.Here(&begin)
	return execve
}

// prepare does what needs privileges and can be done before the program is to
// start, so that mistakes show early.
func (b *builder) prepare(p *plan.Process) {
	b.labels(p)
	b.scheduling(p)
	b.directory(p)
	if !p.ByFD {
		b.find(p)
	}
}

// directory changes to the working directory and makes sure that it is in the
// container: one outside, reached through a descriptor somebody left open, has
// no path, and the kernel says "(unreachable)".
func (b *builder) directory(p *plan.Process) {
	cwd := p.Cwd
	b.Call("process.cwd: chdir "+cwd, unix.SYS_CHDIR, uint64(b.String(cwd)))
	buf := b.Space(unix.PathMax)
	b.Call("process.cwd: "+cwd, unix.SYS_GETCWD, uint64(buf), unix.PathMax)
	b.Compare("process.cwd "+cwd+": it is not inside the container's root", buf, 0xff, '/', unix.ENOENT)
}

// scheduling sets what decides when and where the program runs.
func (b *builder) scheduling(p *plan.Process) {
	le := binary.LittleEndian
	if p.HasScheduler {
		s := p.Scheduler
		attr := le.AppendUint32(nil, unix.SizeofSchedAttr)
		attr = le.AppendUint32(attr, s.Policy)
		attr = le.AppendUint64(attr, s.Flags)
		attr = le.AppendUint32(attr, uint32(s.Nice))
		attr = le.AppendUint32(attr, s.Priority)
		for _, n := range []uint64{s.Runtime, s.Deadline, s.Period, 0} { // the last are utilization clamps
			attr = le.AppendUint64(attr, n)
		}
		b.Call("process.scheduler", unix.SYS_SCHED_SETATTR, 0, uint64(b.Bytes(attr)), 0)
	}
	if p.HasIOPriority {
		const whoProcess = 1 // IOPRIO_WHO_PROCESS; 0 is the caller
		b.Call("process.ioPriority", unix.SYS_IOPRIO_SET, whoProcess, 0, uint64(p.IOPriority))
	}
	if p.HasPersonality {
		b.Call("linux.personality", unix.SYS_PERSONALITY, p.Personality)
	}
	if n := len(p.Affinity); n > 0 {
		words := make([]uint64, p.Affinity[n-1]/64+1)
		for _, c := range p.Affinity {
			words[c/64] |= 1 << (c % 64)
		}
		var set []byte
		for _, w := range words {
			set = le.AppendUint64(set, w)
		}
		b.Call("process.execCPUAffinity", unix.SYS_SCHED_SETAFFINITY, 0, uint64(len(set)), uint64(b.Bytes(set)))
	}
}
