package steps

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// Instead of a system call's number.
const (
	opCompare = -1 // ([arg 0] & arg 1) == arg 2, else fail with errno arg 3
	opSet     = -2 // [arg 0] = arg 1
	opCopy    = -3 // [arg 0] = [arg 1]
	opCount   = -4 // [arg 0] -= 1, and fail with errno arg 1 when it is 0
	opFail    = -5 // fail with errno arg 0
)

// stop is the next step of one whose failure ends the program.
const stop = 1<<32 - 1

// Where the machine has the parts of a step.
const (
	stepSize                                  = 80
	argsAt, storeAt, nextAt, nameAt, lengthAt = 8, 56, 64, 72, 76
)

// jump is a way from a step to a label: on success, or on failure.
type jump struct {
	at int // in the table
	to *Label
}

// reporter is a step whose argument 0 is the report's descriptor and plus.
type reporter struct{ step, plus int }

// Label is a place in a program that steps can go to.
type Label struct{ at int }

// Program is a list of steps; New makes one. Its methods are not for concurrent
// use.
type Program struct {
	table     []byte // headSize bytes, and the steps as the machine reads them
	jumps     []jump // that Start writes into the table
	reporters []reporter
	data      []byte
	strings   map[string]Ref
}

// New makes an empty program.
func New() *Program {
	const usual, bytes = 1600, 24 << 10 // of a container's: growing costs more than this
	return &Program{
		table: make([]byte, headSize, headSize+usual*stepSize), jumps: make([]jump, 0, usual/2),
		data: make([]byte, 0, bytes), strings: make(map[string]Ref, usual/4),
	}
}

// Ref is the address of data in the process that runs the program.
type Ref uint64

// Words that every program has.
const (
	// Report is the descriptor that failures are reported on.
	Report Ref = tableBase
	// LastErrno is what the last system call that failed failed with.
	LastErrno Ref = tableBase + 8
)

// align keeps kernel structures where the kernel expects them.
const align = 16

// Bytes adds data, which the steps may also change, and returns its address.
func (p *Program) Bytes(b []byte) Ref {
	var pad [align]byte
	p.data = append(p.data, pad[:(align-len(p.data)%align)%align]...)
	at := dataBase + len(p.data)
	p.data = append(p.data, b...)
	return Ref(at)
}

// Space adds n zero bytes.
func (p *Program) Space(n int) Ref {
	at := p.Bytes(nil)
	p.data = slices.Grow(p.data, n)[:len(p.data)+n]
	return at
}

// Word adds 64 bits with a value.
func (p *Program) Word(n uint64) Ref {
	at := p.Bytes(nil)
	p.data = binary.LittleEndian.AppendUint64(p.data, n)
	return at
}

// String adds a C string. Equal strings are one: do not change them.
func (p *Program) String(s string) Ref {
	if at, ok := p.strings[s]; ok {
		return at
	}
	at := Ref(dataBase + len(p.data))
	p.data = append(append(p.data, s...), 0)
	p.strings[s] = at
	return at
}

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
	return p.add(int64(nr), what, args...)
}

// Compare adds a step that succeeds if the 64-bit word at ref has the value
// under the mask, and else fails with errno.
func (p *Program) Compare(what string, ref Ref, mask, value uint64, errno unix.Errno) Step {
	return p.add(opCompare, what, uint64(ref), mask, value, uint64(errno))
}

// Set adds a step that writes a 64-bit word.
func (p *Program) Set(ref Ref, value uint64) Step {
	return p.add(opSet, "", uint64(ref), value)
}

// Copy adds a step that copies a 64-bit word.
func (p *Program) Copy(to, from Ref) Step {
	return p.add(opCopy, "", uint64(to), uint64(from))
}

// From says that an argument is the word at Ref when the call is made.
type From struct {
	Arg int
	Ref Ref
}

// CallFrom is Call with some arguments from memory, such as descriptors that
// earlier steps stored there.
func (p *Program) CallFrom(what string, nr uintptr, from []From, args ...uint64) Step {
	call := Step{p, p.len() + len(from)}
	for _, f := range from {
		p.Copy(call.Arg(f.Arg), f.Ref)
	}
	return p.Call(what, nr, args...)
}

// CallOn is CallFrom with the first argument alone, and args the others.
func (p *Program) CallOn(what string, nr uintptr, ref Ref, args ...uint64) Step {
	return p.CallFrom(what, nr, []From{{0, ref}}, append([]uint64{0}, args...)...)
}

// Count adds a step that takes one from the word at ref, and fails with errno
// when nothing is left.
func (p *Program) Count(ref Ref, errno unix.Errno) Step {
	return p.add(opCount, "", uint64(ref), uint64(errno))
}

// Go adds a step that goes to l.
func (p *Program) Go(l *Label) {
	s := Step{p, p.len()}
	p.Set(s.Arg(5), 0).Then(l) // an argument of its own that means nothing
}

// FailAgain adds a step that fails as the last system call did.
func (p *Program) FailAgain(what string) Step {
	fail := Step{p, p.len() + 1}
	p.Copy(fail.Arg(0), LastErrno)
	return p.Fail(what, 0)
}

// Fail adds a step that fails.
func (p *Program) Fail(what string, errno unix.Errno) Step {
	return p.add(opFail, what, uint64(errno))
}

// len is how many steps there are.
func (p *Program) len() int { return (len(p.table) - headSize) / stepSize }

func (p *Program) add(nr int64, what string, args ...uint64) Step {
	s := Step{p, p.len()}
	p.table = append(p.table, make([]byte, stepSize)...)
	row, le := s.row(), binary.LittleEndian
	le.PutUint64(row, uint64(nr))
	for i, a := range args {
		le.PutUint64(row[argsAt+8*i:], a)
	}
	le.PutUint32(row[nextAt:], uint32(s.i+1))
	le.PutUint32(row[nextAt+4:], stop)
	what = what[:min(len(what), maxText)]
	le.PutUint32(row[nameAt:], uint32(p.String(what)))
	le.PutUint32(row[lengthAt:], uint32(len(what)))
	return s
}

func (s Step) row() []byte { return s.p.table[headSize+s.i*stepSize:][:stepSize] }

// Here puts a label before the next step.
func (p *Program) Here(l *Label) { l.at = p.len() + 1 }

// Then goes to l on success.
func (s Step) Then(l *Label) Step { return s.jump(0, l) }

// Else goes to l on failure.
func (s Step) Else(l *Label) Step { return s.jump(4, l) }

func (s Step) jump(way int, l *Label) Step {
	s.p.jumps = append(s.p.jumps, jump{headSize + s.i*stepSize + nextAt + way, l})
	return s
}

// Optional goes on with the following step after a failure, too.
func (s Step) Optional() Step {
	binary.LittleEndian.PutUint32(s.row()[nextAt+4:], uint32(s.i+1))
	return s
}

// Store writes the result, 64 bits, to ref.
func (s Step) Store(ref Ref) Step {
	binary.LittleEndian.PutUint64(s.row()[storeAt:], uint64(ref))
	return s
}

// Arg is the place of an argument, to store a result in: Set and Store write
// there before the step is carried out.
func (s Step) Arg(n int) Ref {
	return Ref(tableBase + headSize + s.i*stepSize + argsAt + 8*n)
}

// Fork adds steps that clone a process, tell its ID and end; the steps that
// follow are the clone's. flags are clone(2)'s, without CLONE_VM.
func (p *Program) Fork(what string, flags uint64) {
	var child Label
	rec := p.record(isPID, 0)
	p.Call(what, unix.SYS_CLONE, flags).Store(rec + valueAt)
	p.Compare("", rec+valueAt, 1<<32-1, 0, 0).Then(&child).Optional()
	p.Set(rec+kindAt, isPID) // storing the ID wrote over it
	p.tell(rec)
	p.Call("", unix.SYS_EXIT_GROUP, 0)
	p.Here(&child)
}

// Tell adds a step that reports an event, to be waited for with Next.
func (p *Program) Tell(event int) { p.tell(p.record(isEvent, event)) }

func (p *Program) tell(rec Ref) {
	s := p.Call("report", unix.SYS_WRITE, 0, uint64(rec), recordSize)
	p.reporters = append(p.reporters, reporter{s.i, 0})
}

// CloseOpened adds a step that closes what the program has opened itself, as
// far as that was not closed before: its descriptors lie above those that it
// was given, but where it closed one of these.
func (p *Program) CloseOpened() {
	s := p.Call("close_range", unix.SYS_CLOSE_RANGE, 0, 1<<32-1, 0)
	p.reporters = append(p.reporters, reporter{s.i, 1})
}

// record is the beginning of a report: a 32-bit value, a 16-bit kind and the
// length of the text that follows.
func (p *Program) record(kind, value int) Ref {
	at := p.Space(recordSize + 8) // with room for storing 64 bits over the value
	b := p.data[len(p.data)-recordSize-8:]
	binary.LittleEndian.PutUint32(b[valueAt:], uint32(value))
	binary.LittleEndian.PutUint16(b[kindAt:], uint16(kind))
	return at
}

// finish writes into the table what is known only now: where the labels are,
// and the report's descriptor.
func (p *Program) finish(report int) {
	le := binary.LittleEndian
	le.PutUint64(p.table, uint64(report))
	for _, j := range p.jumps {
		le.PutUint32(p.table[j.at:], uint32(j.to.at-1))
	}
	for _, r := range p.reporters {
		le.PutUint64(Step{p, r.step}.row()[argsAt:], uint64(report+r.plus))
	}
}
