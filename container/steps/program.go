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

const stepSize = 80

// step is one row of the table.
type step struct {
	nr     int64
	args   [6]uint64
	store  uint64
	onOK   uint32
	onErr  uint32
	what   string
	labels [2]*Label // of onOK and onErr, until they are known
	report int       // argument 0 is the report's descriptor, plus this minus one; 0: it is not
}

// Label is a place in a program that steps can go to.
type Label struct{ at int }

// Program is a list of steps; New makes one. Its methods are not for concurrent
// use.
type Program struct {
	steps   []step
	data    []byte
	strings map[string]Ref
}

// New makes an empty program.
func New() *Program {
	const usual, bytes = 1 << 10, 32 << 10 // of a container's: growing costs more than this
	return &Program{steps: make([]step, 0, usual), data: make([]byte, 0, bytes), strings: make(map[string]Ref, usual/2)}
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

// From says that an argument is the word at Ref when the call is made.
type From struct {
	Arg int
	Ref Ref
}

// CallFrom is Call with some arguments from memory, such as descriptors that
// earlier steps stored there.
func (p *Program) CallFrom(what string, nr uintptr, from []From, args ...uint64) Step {
	call := Step{p, len(p.steps) + len(from)}
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
	return p.add(step{nr: opCount}, []uint64{uint64(ref), uint64(errno)})
}

// Go adds a step that goes to l.
func (p *Program) Go(l *Label) {
	s := Step{p, len(p.steps)}
	p.Set(s.Arg(5), 0).Then(l) // an argument of its own that means nothing
}

// FailAgain adds a step that fails as the last system call did.
func (p *Program) FailAgain(what string) Step {
	fail := Step{p, len(p.steps) + 1}
	p.Copy(fail.Arg(0), LastErrno)
	return p.Fail(what, 0)
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
	p.steps[s.i].report = 1
}

// CloseOpened adds a step that closes what the program has opened itself, as
// far as that was not closed before: its descriptors lie above those that it
// was given, but where it closed one of these.
func (p *Program) CloseOpened() {
	s := p.Call("close_range", unix.SYS_CLOSE_RANGE, 0, 1<<32-1, 0)
	p.steps[s.i].report = 2
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

// table is the steps as the machine reads them; it adds their names to the
// data.
func (p *Program) table(report int) []byte {
	le := binary.LittleEndian
	b := le.AppendUint64(make([]byte, 0, headSize+stepSize*len(p.steps)), uint64(report))
	b = le.AppendUint64(b, 0)
	for _, s := range p.steps {
		b = le.AppendUint64(b, uint64(s.nr))
		if s.report > 0 {
			s.args[0] = uint64(report + s.report - 1)
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
		what := s.what[:min(len(s.what), maxText)]
		b = le.AppendUint32(b, uint32(p.String(what)))
		b = le.AppendUint32(b, uint32(len(what)))
	}
	return b
}
