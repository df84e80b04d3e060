package commit

import "fmt"

// State is a state of one side. Source and destination have states of their
// own; the names are those of the protocol's specification.
type State string

// States of the source.
const (
	Copying   State = "copying"   // the guest runs here, memory is being sent
	Paused    State = "paused"    // the rest is being sent; waiting for READY
	Intending State = "intending" // writing the intent record
	Committed State = "committed" // GO is sent; it may run there
	InDoubt   State = "in-doubt"  // it may run there and nobody answers
	Handed    State = "handed"    // it runs there; the copy here is destroyed
	Serving   State = "serving"   // it runs there, on memory that is partly here still (post-copy)
	Kept      State = "kept"      // it runs here
)

// States of the destination.
const (
	Receiving State = "receiving" // memory arrives
	Ready     State = "ready"     // all is loaded; waiting for GO
	Taking    State = "taking"    // taking locks, writing the owner record
	Resuming  State = "resuming"  // the right to run is ours, it does not run yet
	Running   State = "running"   // it runs here
	Revoked   State = "revoked"   // it will never run here
	Stuck     State = "stuck"     // neither record could be written
	Gone      State = "gone"      // no session, no record
	Ended     State = "ended"     // it ran here, and ended since memory it lacked was lost with the source
)

// Revoking is a state of both: the source waits for the promise of the
// destination never to run the machine, the destination writes it down.
const Revoking State = "revoking"

// Event is what moves a side.
type Event string

// Events. The first group are messages from the other side.
const (
	GotReady   Event = "READY"
	GotGo      Event = "GO"
	GotQuery   Event = "QUERY"
	GotRunning Event = "RUNNING"
	GotRevoked Event = "REVOKED"
	GotAbort   Event = "ABORT"

	// RUNNING of a destination that lacks pages which the source still has, what it
	// says when it has them all, and when its guest has ended before.
	RunsLacking Event = "RUNNING, lacking pages"
	GotDrained  Event = "DRAINED"
	GotLost     Event = "REFUSE lost"

	Switch     Event = "switch"           // the source decides to pause
	Loaded     Event = "loaded"           // memory and state are complete and accepted
	Fail       Event = "fail"             // error, refusal, time-out, cancellation
	Silence    Event = "silence"          // no answer to GO, or the link broke
	Retry      Event = "retry"            // time to ask again
	Expired    Event = "expired"          // T_go passed without GO
	Done       Event = "done"             // all actions of the row succeeded
	Failed     Event = "failed"           // one did not; those after it were left out
	KeepSource Event = "keep-source"      // operator: the destination is fenced
	KeepDest   Event = "keep-destination" // operator: the destination runs it
	Drained    Event = "drained"          // every page has come
	SourceGone Event = "source gone"      // and with it pages that have not come
	noEvent    Event = ""                 //
)

// Action is what a side does when it changes state.
type Action string

// Actions. Writing a record is durable when it succeeded, and may be durable
// when it failed.
const (
	SendReady   Action = "send READY"
	SendGo      Action = "send GO"
	SendQuery   Action = "send QUERY"
	SendRunning Action = "send RUNNING"
	SendRevoked Action = "send REVOKED"
	SendAbort   Action = "send ABORT"
	SendDrained Action = "send DRAINED"
	SendLost    Action = "send REFUSE lost"

	PauseGuest   Action = "pause guest"
	ResumeGuest  Action = "resume guest"
	DropGuest    Action = "drop guest" // for good
	TakeLocks    Action = "take locks"
	ReleaseLocks Action = "release locks"

	WriteIntent  Action = "write intent"
	WriteOwner   Action = "write owner"
	WriteRevoked Action = "write revoked"
	// WriteHanded and WriteKept repeat what the destination's own record says:
	// a failure is reported and otherwise ignored.
	WriteHanded Action = "write handed"
	WriteKept   Action = "write kept"
)

// Row is one line of a table: in state From, On happens, the state becomes To
// and Do is done in order. Follow says that the end of Do is an event itself:
// Done, or Failed after the first action that failed.
type Row struct {
	From   State
	On     Event
	To     State
	Do     []Action
	Follow bool
}

// Table is the behaviour of one side. What it does not list is ignored.
type Table []Row

// Find returns the row for an event, or ok=false when it is ignored.
func (t Table) Find(s State, e Event) (r Row, ok bool) {
	for _, r := range t {
		if r.From == s && r.On == e {
			return r, true
		}
	}
	return Row{}, false
}

var (
	keep   = []Action{WriteKept, TakeLocks, ResumeGuest}
	handed = []Action{WriteHanded, DropGuest}
)

// Source is the table of the side that has the machine.
var Source = Table{
	{From: Copying, On: Switch, To: Paused, Do: []Action{PauseGuest, ReleaseLocks}},
	{From: Copying, On: Fail, To: Kept, Do: []Action{SendAbort}},
	{From: Paused, On: GotReady, To: Intending, Do: []Action{WriteIntent}, Follow: true},
	{From: Paused, On: Fail, To: Kept, Do: []Action{SendAbort, TakeLocks, ResumeGuest}},
	{From: Intending, On: Done, To: Committed, Do: []Action{SendGo}},
	// The record may be on disk: only the destination's promise makes it safe to
	// go on here, or a restart could ask it to run what we have run past.
	{From: Intending, On: Failed, To: Revoking, Do: []Action{SendAbort}},
	{From: Revoking, On: Retry, To: Revoking, Do: []Action{SendAbort}},
	{From: Revoking, On: GotRevoked, To: Kept, Do: keep},
	{From: Revoking, On: KeepSource, To: Kept, Do: keep},
	{From: Committed, On: GotRunning, To: Handed, Do: handed},
	{From: Committed, On: GotRevoked, To: Kept, Do: keep},
	{From: Committed, On: Silence, To: InDoubt, Do: []Action{SendQuery}},
	{From: Committed, On: KeepSource, To: Kept, Do: keep},
	{From: Committed, On: KeepDest, To: Handed, Do: handed},
	{From: InDoubt, On: Retry, To: InDoubt, Do: []Action{SendQuery}},
	{From: InDoubt, On: GotRunning, To: Handed, Do: handed},
	{From: InDoubt, On: GotRevoked, To: Kept, Do: keep},
	{From: InDoubt, On: KeepSource, To: Kept, Do: keep},
	{From: InDoubt, On: KeepDest, To: Handed, Do: handed},
	// Post-copy: the guest here is memory only. It has run on there, so that
	// nothing leads back to running it here.
	{From: Committed, On: RunsLacking, To: Serving},
	{From: InDoubt, On: RunsLacking, To: Serving},
	{From: Serving, On: GotDrained, To: Handed, Do: handed},
	{From: Serving, On: GotLost, To: Handed, Do: handed},
	{From: Serving, On: KeepDest, To: Handed, Do: handed},
}

var (
	take   = []Action{TakeLocks, WriteOwner}
	revoke = []Action{WriteRevoked}
)

// Destination is the table of the side that shall get it.
var Destination = Table{
	{From: Receiving, On: Loaded, To: Ready, Do: []Action{SendReady}},
	{From: Receiving, On: Fail, To: Gone, Do: []Action{DropGuest}},
	{From: Receiving, On: GotAbort, To: Gone, Do: []Action{DropGuest}},
	{From: Receiving, On: GotGo, To: Revoking, Do: revoke, Follow: true},
	{From: Receiving, On: GotQuery, To: Revoking, Do: revoke, Follow: true},
	{From: Ready, On: GotGo, To: Taking, Do: take, Follow: true},
	// Only a source whose intent is on disk asks, so the question is as good as
	// GO; and a source that restarted has no copy but ours.
	{From: Ready, On: GotQuery, To: Taking, Do: take, Follow: true},
	{From: Ready, On: GotAbort, To: Revoking, Do: revoke, Follow: true},
	{From: Ready, On: Expired, To: Revoking, Do: revoke, Follow: true},
	{From: Taking, On: Done, To: Resuming, Do: []Action{ResumeGuest}, Follow: true},
	{From: Taking, On: Failed, To: Revoking, Do: revoke, Follow: true},
	{From: Resuming, On: Done, To: Running, Do: []Action{SendRunning}},
	{From: Resuming, On: Failed, To: Revoking, Do: revoke, Follow: true},
	{From: Running, On: GotGo, To: Running, Do: []Action{SendRunning}},
	{From: Running, On: GotQuery, To: Running, Do: []Action{SendRunning}},
	{From: Running, On: GotAbort, To: Running, Do: []Action{SendRunning}},
	{From: Revoking, On: Done, To: Revoked, Do: []Action{ReleaseLocks, DropGuest, SendRevoked}},
	{From: Revoking, On: Failed, To: Stuck},
	{From: Stuck, On: GotGo, To: Revoking, Do: revoke, Follow: true},
	{From: Stuck, On: GotQuery, To: Revoking, Do: revoke, Follow: true},
	{From: Stuck, On: GotAbort, To: Revoking, Do: revoke, Follow: true},
	{From: Stuck, On: Retry, To: Revoking, Do: revoke, Follow: true},
	{From: Revoked, On: GotGo, To: Revoked, Do: []Action{SendRevoked}},
	{From: Revoked, On: GotQuery, To: Revoked, Do: []Action{SendRevoked}},
	{From: Revoked, On: GotAbort, To: Revoked, Do: []Action{SendRevoked}},
	{From: Gone, On: GotGo, To: Revoking, Do: revoke, Follow: true},
	{From: Gone, On: GotQuery, To: Revoking, Do: revoke, Follow: true},
	{From: Gone, On: GotAbort, To: Revoking, Do: revoke, Follow: true},
	// Post-copy: the process that fills the memory does these.
	{From: Running, On: Drained, To: Running, Do: []Action{SendDrained}},
	{From: Running, On: SourceGone, To: Ended, Do: []Action{DropGuest, SendLost}},
	{From: Ended, On: GotGo, To: Ended, Do: []Action{SendRunning}},
	{From: Ended, On: GotQuery, To: Ended, Do: []Action{SendRunning}},
	{From: Ended, On: GotAbort, To: Ended, Do: []Action{SendRunning}},
}

// Machine is one side at work: it keeps the state and has the actions done.
// One goroutine drives it.
type Machine struct {
	table Table
	state State
	do    func(Action) error
}

// NewMachine returns the side described by table in state s; do performs
// actions.
func NewMachine(table Table, s State, do func(Action) error) *Machine {
	return &Machine{table: table, state: s, do: do}
}

// State returns the current state.
func (m *Machine) State() State { return m.state }

// Fire lets e happen, with everything that follows from it. An event that the
// table does not list for the state is ignored. The error is that of the first
// action that failed; the state is then as the table says, and the actions
// after it were not done.
func (m *Machine) Fire(e Event) (first error) {
	for e != noEvent {
		r, ok := m.table.Find(m.state, e)
		if !ok {
			return first
		}
		from := m.state
		m.state = r.To
		end := Done
		for _, a := range r.Do {
			if err := m.do(a); err != nil {
				end = Failed
				if first == nil {
					first = fmt.Errorf("%s, from %s to %s: %s: %w", e, from, r.To, a, err)
				}
				break
			}
		}
		e = noEvent
		if r.Follow {
			e = end
		}
	}
	return first
}
