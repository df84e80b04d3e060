package steps

import (
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// Instead of a system call's number.
const (
	opCompare = -1 // ([arg 0] & arg 1) == arg 2, else fail with errno arg 3
	opSet     = -2 // [arg 0] = arg 1
	opCopy    = -3 // [arg 0] = [arg 1]
	opFail    = -4 // fail with errno arg 0
)

// stop is the next step of one whose failure ends the program.
const stop = 1<<32 - 1

const (
	stepSize   = 72
	reportSize = 8 // number of a step and errno, or pidStep and a process ID
)

// step is one row of the table.
type step struct {
	nr     int64
	args   [6]uint64
	store  uint64
	onOK   uint32
	onErr  uint32
	what   string
	labels [2]*Label // of onOK and onErr, until they are known
	report bool      // argument 0 is the report's descriptor
}

// Label is a place in a program that steps can go to.
type Label struct{ at int }

// Program is a list of steps. The zero value has none. Its methods are not for
// concurrent use.
type Program struct {
	steps []step
	data  []byte
}

// Ref is the address of data in the process that runs the program.
type Ref uint64

// align keeps kernel structures where the kernel expects them.
const align = 16

// Bytes adds data, which the steps may also change, and returns its address.
func (p *Program) Bytes(b []byte) Ref {
	at := dataBase + len(p.data)
	p.data = append(p.data, b...)
	p.data = append(p.data, make([]byte, (align-len(p.data)%align)%align)...)
	return Ref(at)
}

// Space adds n zero bytes.
func (p *Program) Space(n int) Ref { return p.Bytes(make([]byte, n)) }

// String adds a C string.
func (p *Program) String(s string) Ref { return p.Bytes(append([]byte(s), 0)) }

// Strings adds a NULL-terminated table of C strings.
func (p *Program) Strings(ss []string) Ref {
	table := make([]byte, 0, 8*(len(ss)+1))
	for _, s := range ss {
		table = binary.LittleEndian.AppendUint64(table, uint64(p.String(s)))
	}
	return p.Bytes(binary.LittleEndian.AppendUint64(table, 0))
}

// Step is a step that was added; its methods change where it leads.
type Step struct {
	p *Program
	i int
}

// Call adds a system call. what says what it is for, in errors. Unless told
// otherwise it goes on with the following step, and ends the program when it
// fails.
func (p *Program) Call(what string, nr uintptr, args ...uint64) Step {
	return p.add(step{nr: int64(nr), what: what}, args)
}

// Compare adds a step that succeeds if the 64-bit word at ref has the value
// under the mask, and else fails with errno.
func (p *Program) Compare(what string, ref Ref, mask, value uint64, errno unix.Errno) Step {
	return p.add(step{nr: opCompare, what: what}, []uint64{uint64(ref), mask, value, uint64(errno)})
}

// Set adds a step that writes a 64-bit word.
func (p *Program) Set(ref Ref, value uint64) Step {
	return p.add(step{nr: opSet}, []uint64{uint64(ref), value})
}

// Copy adds a step that copies a 64-bit word.
func (p *Program) Copy(to, from Ref) Step {
	return p.add(step{nr: opCopy}, []uint64{uint64(to), uint64(from)})
}

// CallOn is Call with the word at ref as first argument, such as a descriptor
// that an earlier step stored there.
func (p *Program) CallOn(what string, nr uintptr, ref Ref, args ...uint64) Step {
	call := Step{p, len(p.steps) + 1}
	p.Copy(call.Arg(0), ref)
	return p.Call(what, nr, append([]uint64{0}, args...)...)
}

// Fail adds a step that fails.
func (p *Program) Fail(what string, errno unix.Errno) Step {
	return p.add(step{nr: opFail, what: what}, []uint64{uint64(errno)})
}

func (p *Program) add(s step, args []uint64) Step {
	copy(s.args[:], args)
	s.onOK, s.onErr = uint32(len(p.steps)+1), stop
	p.steps = append(p.steps, s)
	return Step{p, len(p.steps) - 1}
}

// Here puts a label before the next step.
func (p *Program) Here(l *Label) { l.at = len(p.steps) + 1 }

// Then goes to l on success.
func (s Step) Then(l *Label) Step {
	s.p.steps[s.i].labels[0] = l
	return s
}

// Else goes to l on failure.
func (s Step) Else(l *Label) Step {
	s.p.steps[s.i].labels[1] = l
	return s
}

// Optional goes on with the following step after a failure, too.
func (s Step) Optional() Step {
	s.p.steps[s.i].onErr = uint32(s.i + 1)
	return s
}

// Store writes the result, 64 bits, to ref.
func (s Step) Store(ref Ref) Step {
	s.p.steps[s.i].store = uint64(ref)
	return s
}

// Arg is the place of an argument, to store a result in: Set and Store write
// there before the step is carried out.
func (s Step) Arg(n int) Ref {
	return Ref(tableBase + headSize + s.i*stepSize + 8 + 8*n)
}

// Fork adds steps that clone a process, tell its ID and end; the steps that
// follow are the clone's. flags are clone(2)'s, without CLONE_VM.
func (p *Program) Fork(what string, flags uint64) {
	const pidAt = 4
	var child Label
	rec := p.Bytes(binary.LittleEndian.AppendUint64(nil, pidStep))
	p.Call(what, unix.SYS_CLONE, flags).Store(rec + pidAt)
	p.Compare("", rec+pidAt, 1<<32-1, 0, 0).Then(&child).Optional()
	tell := p.Call("tell the process ID", unix.SYS_WRITE, 0, uint64(rec), reportSize)
	p.steps[tell.i].report = true
	p.Call("", unix.SYS_EXIT_GROUP, 0)
	p.Here(&child)
}

// table is the steps as the machine reads them.
func (p *Program) table(report int) []byte {
	le := binary.LittleEndian
	b := le.AppendUint64(make([]byte, 0, headSize+stepSize*len(p.steps)), uint64(report))
	b = le.AppendUint64(b, 0)
	for _, s := range p.steps {
		b = le.AppendUint64(b, uint64(s.nr))
		if s.report {
			s.args[0] = uint64(report)
		}
		for _, a := range s.args {
			b = le.AppendUint64(b, a)
		}
		b = le.AppendUint64(b, s.store)
		for i, next := range [...]uint32{s.onOK, s.onErr} {
			if l := s.labels[i]; l != nil {
				next = uint32(l.at - 1)
			}
			b = le.AppendUint32(b, next)
		}
	}
	return b
}

// Dump lists the steps, for tests and whoever looks for a mistake.
func (p *Program) Dump() string {
	var b strings.Builder
	for _, s := range p.steps {
		b.WriteString(s.what + "\n")
	}
	return b.String()
}
