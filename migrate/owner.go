package migrate

import (
	"context"
	"fmt"
	"time"

	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/wire"
)

// owner is the source's part in the hand-over: it does what the table of the
// commit rule says.
type owner struct {
	src     Source // nil when the process restarted and the guest is gone
	journal commit.Journal
	record  commit.Record
	dialer  *dialer
	o       SendOptions
	machine *commit.Machine

	ctx      context.Context // of the phase that drives the machine
	link     *link           // nil when there is none
	intent   commit.Staged   // the record, ready to be published
	released chan error      // result of Locks.Release, when it was begun
	answer   commit.Event    // what the last question brought, if anything
	pages    *pageServer     // of a destination that lacks some; nil otherwise
}

func newOwner(src Source, dial Dial, j commit.Journal, r commit.Record, s commit.State, o SendOptions) *owner {
	w := &owner{src: src, journal: j, record: r, o: o}
	w.dialer = &dialer{
		dial: dial, epoch: r.Epoch, o: o,
		hello: hello{Min: minVersion, Max: ProtocolVersion, Session: r.Session, VM: o.VM, Build: o.Build},
	}
	w.machine = commit.NewMachine(commit.Source, s, w.do)
	return w
}

// committed reports whether the point of no return has been passed.
func (w *owner) committed() bool {
	s := w.machine.State()
	return s != commit.Copying && s != commit.Paused
}

// do performs one action. Messages that cannot be sent are lost messages, not
// errors: the rule is made for that.
func (w *owner) do(a commit.Action) error {
	w.o.Log.Debug("migrate", "action", a, "session", w.record.Session)
	switch a {
	case commit.PauseGuest:
		return w.src.Pause(w.ctx)
	case commit.ResumeGuest:
		if w.src == nil { // its start is up to the machine's policy
			return nil
		}
		return w.src.Resume(w.ctx)
	case commit.DropGuest: // the caller closes the machine: it is told "handed"
		return nil
	case commit.ReleaseLocks:
		w.release()
		return nil
	case commit.TakeLocks:
		return w.acquire()
	case commit.WriteIntent:
		return w.intent.Publish()
	case commit.WriteHanded:
		return w.repeat(commit.HandedRecord, w.record.Epoch)
	case commit.WriteKept:
		return w.repeat(commit.KeptRecord, w.record.Epoch+1)
	case commit.SendGo:
		w.tell(wire.Go)
	case commit.SendQuery:
		w.question(wire.Query)
	case commit.SendAbort:
		switch {
		case w.link != nil:
			w.tell(wire.Abort)
		case w.machine.State() == commit.Revoking:
			w.question(wire.Abort)
		}
	default:
		return fmt.Errorf("the source has no way to %s", a)
	}
	return nil
}

// release begins to drop the locks; the last pages travel meanwhile.
func (w *owner) release() {
	l, ok := w.src.(Locks)
	if !ok {
		return
	}
	done, ctx := make(chan error, 1), w.ctx
	w.released = done
	go func() { done <- l.Release(ctx) }()
}

// join waits for what release began.
func (w *owner) join() error {
	if w.released == nil {
		return nil
	}
	err := <-w.released
	w.released = nil
	return err
}

func (w *owner) acquire() error {
	l, ok := w.src.(Locks)
	if !ok {
		return nil
	}
	_ = w.join() // whatever came of it, the locks are taken again
	return l.Acquire(w.ctx)
}

// stage makes the intent record ready before the guest stands still.
func (w *owner) stage() (err error) {
	r := w.record
	r.Verdict, r.At = commit.IntentRecord, time.Now().UTC()
	if w.intent, err = w.journal.Stage(r); err != nil {
		return fmt.Errorf("stage the intent record: %w", err)
	}
	return nil
}

// repeat writes a record that the destination has too: a failure is no reason
// to stop.
func (w *owner) repeat(v commit.Verdict, epoch uint32) error {
	r := w.record
	r.Verdict, r.Epoch, r.At = v, epoch, time.Now().UTC()
	if err := commit.Store(w.journal, r); err != nil {
		w.o.Log.Error("write the migration record", "verdict", v, "err", err)
	}
	return nil
}

func (w *owner) tell(t wire.Type) {
	var err error
	if t == wire.Abort {
		err = sendJSON(w.link.control, t, refusal{Code: "abort", Message: "the source keeps the machine"})
	} else {
		err = w.link.control.Send(t, nil)
	}
	if err != nil {
		w.o.Log.Warn("message lost", "type", t, "err", err)
	}
}

// question asks over a connection of its own and keeps the answer for settle.
func (w *owner) question(t wire.Type) {
	answer, err := w.dialer.ask(w.ctx, t, w.o.Answer)
	switch {
	case err != nil:
		w.o.Log.Warn("the destination does not answer", "question", t, "err", err)
	case answer == wire.Running:
		w.answer = w.runs()
	case answer == wire.Revoked:
		w.answer = commit.GotRevoked
	}
}

// settle finds out who has the machine. nil is that the destination has it; an
// error wrapping ErrInDoubt that nobody answered until Doubt was over; any other
// that it is here, running.
func (w *owner) settle(ctx context.Context) error {
	// The point of no return is behind us: whoever cancels now must still know.
	doubt := w.o.Doubt
	if w.pages != nil { // the destination may be running: nobody else can serve it
		doubt = 1 << 62
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), doubt, ErrInDoubt)
	defer cancel()
	w.ctx = ctx
	wait := w.o.Backoff
	for {
		switch w.machine.State() {
		case commit.Handed, commit.Serving:
			return nil
		case commit.Kept:
			return fmt.Errorf("%w by the destination: it promised never to run the machine", ErrRefused)
		default: // not known yet
		}
		e := w.hear(ctx)
		if e == commit.Retry {
			if e = w.pause(ctx, wait); e == "" {
				return fmt.Errorf("%w: %s did not answer for %v; the machine stays paused", ErrInDoubt, w.record.Peer, w.o.Doubt)
			}
			wait = min(2*wait, maxBackoff)
		}
		if e == commit.GotRevoked {
			w.ctx = context.WithoutCancel(ctx)
		}
		if err := w.machine.Fire(e); err != nil {
			return err
		}
	}
}

// hear returns the next event: an answer, a message, or that none comes.
func (w *owner) hear(ctx context.Context) commit.Event {
	if e := w.answer; e != "" {
		w.answer = ""
		return e
	}
	if w.link != nil {
		wait, cancel := context.WithTimeout(ctx, w.o.Answer)
		defer cancel()
		for {
			m, err := w.link.wait(wait)
			switch {
			case err != nil:
				w.link.closeAll()
				w.link = nil
				if w.machine.State() == commit.Committed {
					return commit.Silence
				}
				return commit.Retry
			case m.typ == wire.Running:
				return w.runs()
			case m.typ == wire.Revoked:
				return commit.GotRevoked
			}
		}
	}
	if w.machine.State() == commit.Committed {
		return commit.Silence
	}
	return commit.Retry
}

// Settle asks the destination what became of the session in the journal's
// intent record. nil means that it runs the machine; an error wrapping ErrRefused
// that it never will: src, when there is one, has been resumed, otherwise the
// machine may be started afresh; ErrInDoubt that nobody answered. o needs Token
// no more.
func Settle(ctx context.Context, src Source, dial Dial, j commit.Journal, o SendOptions) error {
	w, err := inDoubt(src, dial, j, o)
	if err != nil {
		return err
	}
	return w.settle(ctx)
}

// Resolve is an operator's word on a session in doubt. With keep, the machine
// is resumed here (or may be started afresh): the operator has made sure that
// the destination does not run it and never will. Without, it is given up here.
func Resolve(ctx context.Context, src Source, j commit.Journal, keep bool, o SendOptions) error {
	w, err := inDoubt(src, nil, j, o)
	if err != nil {
		return err
	}
	w.ctx = ctx
	if keep {
		return w.machine.Fire(commit.KeepSource)
	}
	return w.machine.Fire(commit.KeepDest)
}

// inDoubt returns the owner of the session that the journal names.
func inDoubt(src Source, dial Dial, j commit.Journal, o SendOptions) (*owner, error) {
	r, err := j.Load()
	if err != nil {
		return nil, err
	}
	if r.Verdict != commit.IntentRecord {
		return nil, fmt.Errorf("nothing is in doubt: the record of %s says %q", r.VM, r.Verdict)
	}
	return newOwner(src, dial, j, r, commit.InDoubt, o.withDefaults()), nil
}
