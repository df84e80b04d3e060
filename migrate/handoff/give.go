package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/migrate/wire"
)

// Version is what this build speaks; a process of another version is refused
// before anything happens.
const Version = 1

// ErrLost is wrapped when the new process took the guest and died: it may have
// run, so the old one must not let it run again.
var ErrLost = errors.New("the guest is lost: the new process took it over and died")

// Machine is the guest in the old process.
type Machine interface {
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	SaveState() ([]state.Section, error)
}

// File goes along, as a descriptor.
type File struct {
	Name string // of at most 255 bytes; names may repeat
	File *os.File
}

// Offer is what the new process builds its machine from.
type Offer struct {
	Description json.RawMessage // opaque to this package; at most 32 KiB
	Files       []File
}

// Options are what Give may be told. Zero values are defaults.
type Options struct {
	// Kill ends the new process for good and returns when it is gone.
	Kill func() error
	// Prepare bounds the time until the new machine is built (60 s).
	Prepare time.Duration
	// Blackout bounds the time that the guest may stand still before it goes on
	// here (5 s).
	Blackout time.Duration
	// At is told each step before it is done; tests die there.
	At func(step string)
}

// Report says how long the parts of a hand-over took.
type Report struct {
	PrepareNs  int64 `json:"prepareNs"`  // building the new machine; the guest runs
	PauseNs    int64 `json:"pauseNs"`    // stopping vCPUs and devices
	SaveNs     int64 `json:"saveNs"`     // and encoding the state
	LoadNs     int64 `json:"loadNs"`     // in the new process
	CommitNs   int64 `json:"commitNs"`   // from GO to RUNNING
	BlackoutNs int64 `json:"blackoutNs"` // all but PrepareNs
	StateBytes int   `json:"stateBytes"`
}

// Give hands m to the process at the other end of l. After nil it runs there.
// After an error it runs here, as if nothing had been, unless the error wraps
// ErrLost; or ErrStopped, when not even going on here was possible. ctx can call
// it off until GO.
func Give(ctx context.Context, l *Link, m Machine, offer Offer, o Options) (r Report, err error) {
	g := &giving{l: l, m: m, o: o}
	if g.o.Prepare == 0 {
		g.o.Prepare = time.Minute
	}
	if g.o.Blackout == 0 {
		g.o.Blackout = 5 * time.Second
	}
	if g.o.At == nil {
		g.o.At = func(string) {}
	}
	err = g.prepare(ctx, offer)
	if err == nil {
		err = g.blackout(ctx)
	}
	return g.r, err
}

// ErrStopped is wrapped when the hand-over failed and the guest could not be
// resumed here either.
var ErrStopped = errors.New("the guest stands still")

type giving struct {
	l *Link
	m Machine
	o Options
	r Report
}

// prepare lets the new process build its machine. The guest notices nothing.
func (g *giving) prepare(ctx context.Context, offer Offer) (err error) {
	began := time.Now()
	defer func() {
		g.r.PrepareNs = int64(time.Since(began))
		if err != nil {
			err = g.revoke(err)
		}
	}()
	g.o.At("offer")
	for rest := offer.Files; len(rest) > 0; {
		n := min(len(rest), maxFiles)
		m := message{Type: "files"}
		var files []*os.File
		for _, f := range rest[:n] {
			m.Names, files = append(m.Names, f.Name), append(files, f.File)
		}
		if err := g.l.send(m, files...); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if err := g.l.send(message{Type: "offer", Version: Version, Description: offer.Description}); err != nil {
		return err
	}
	return g.await(ctx, "prepared", g.o.Prepare)
}

// blackout is the time the guest stands still.
func (g *giving) blackout(ctx context.Context) error {
	began := time.Now()
	lap := began
	took := func(ns *int64) {
		now := time.Now()
		*ns, lap = int64(now.Sub(lap)), now
	}
	g.o.At("pause")
	pctx, cancel := context.WithTimeout(ctx, g.o.Blackout)
	defer cancel()
	if err := g.m.Pause(pctx); err != nil { // it runs on, says Pause
		return g.revoke(fmt.Errorf("pause: %w", err))
	}
	took(&g.r.PauseNs)
	err := func() error {
		g.o.At("save")
		state, err := g.save()
		if err != nil {
			return err
		}
		defer state.Close()
		took(&g.r.SaveNs)
		g.o.At("state")
		if err := g.l.send(message{Type: "state", Names: []string{"state"}}, state); err != nil {
			return err
		}
		if err := g.await(ctx, "ready", g.o.Blackout-time.Since(began)); err != nil {
			return err
		}
		took(&g.r.LoadNs)
		g.o.At("go")
		return context.Cause(ctx)
	}()
	if err != nil {
		return g.goOn(g.revoke(err))
	}
	err = g.commit()
	took(&g.r.CommitNs)
	g.r.BlackoutNs = int64(time.Since(began))
	return err
}

// save puts the machine's state into a file.
func (g *giving) save() (*os.File, error) {
	sections, err := g.m.SaveState()
	if err != nil {
		return nil, fmt.Errorf("save: %w", err)
	}
	b, err := wire.AppendSections(nil, sections)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("machine-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "machine-state")
	if _, err := f.Write(b); err != nil {
		_ = f.Close()
		return nil, err
	}
	g.r.StateBytes = len(b)
	return f, nil
}

// commit says GO. From here on only the new process's word, or its death without
// a word, decides.
func (g *giving) commit() error {
	if err := g.l.send(message{Type: "go"}); err != nil {
		return g.verdict(err)
	}
	g.o.At("gone") // GO is said, and not answered
	m, files, err := g.l.receive(g.o.Blackout)
	closeFiles(files)
	switch {
	case err == nil && m.Type == "taking":
		g.o.At("taken")
		return g.follow()
	case err == nil:
		err = unexpected(m)
	case errors.Is(err, io.EOF):
		err = errors.New("the new process ended")
	}
	return g.verdict(err)
}

// follow waits until the guest runs in the new process, whose it is already.
func (g *giving) follow() error {
	for {
		m, files, err := g.l.receive(0)
		closeFiles(files)
		switch {
		case err == nil && m.Type == "running":
			return nil
		case err == nil && m.Type == "failed":
			return fmt.Errorf("%w: %s", ErrLost, m.Text)
		case err == nil:
			continue // it is the owner by now, whatever it says
		}
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
}

// verdict finds out, after GO and an error, whose the guest is: the new process
// is ended, then what it said before is read to its end.
func (g *giving) verdict(why error) error {
	if err := g.kill(); err != nil {
		// It may live, and may run the guest: nothing is resumed here.
		return fmt.Errorf("%w here and perhaps runs in the new process, which does not end: %w: %w", ErrStopped, err, why)
	}
	for {
		m, files, err := g.l.receive(time.Second)
		closeFiles(files)
		if err != nil {
			return g.goOn(why)
		}
		if m.Type == "taking" {
			return fmt.Errorf("%w: %w", ErrLost, why)
		}
	}
}

// revoke ends the new process, which has not been told GO: whether it lives does
// not matter to the guest.
func (g *giving) revoke(why error) error {
	_ = g.l.send(message{Type: "abort"}) // so that it may clean up; or it is gone
	if err := g.kill(); err != nil {
		return errors.Join(why, err)
	}
	return why
}

func (g *giving) kill() error {
	if g.o.Kill == nil {
		return nil
	}
	return g.o.Kill()
}

// goOn lets the guest run here again.
func (g *giving) goOn(why error) error {
	g.o.At("resume")
	if err := g.m.Resume(context.Background()); err != nil {
		return fmt.Errorf("%w: %w: %w", ErrStopped, err, why)
	}
	return why
}

// await waits for one message. What the new process says of a failure is the
// error.
func (g *giving) await(ctx context.Context, typ string, within time.Duration) error {
	stop := context.AfterFunc(ctx, func() { _ = g.l.c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	m, files, err := g.l.receive(max(within, time.Millisecond))
	closeFiles(files)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the new process was not %s within %v", typ, within.Round(time.Millisecond))
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the new process ended before it was %s", typ)
	case err != nil:
		return err
	case m.Type == "failed":
		return fmt.Errorf("the new process: %s", m.Text)
	case m.Type != typ:
		return unexpected(m)
	}
	return nil
}

func unexpected(m message) error {
	return fmt.Errorf("%w: %.32q comes out of turn", ErrProtocol, m.Type)
}
