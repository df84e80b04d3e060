package handoff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/migrate/wire"
)

// ErrRevoked is wrapped when the old process keeps the guest, or has died before
// it gave it away.
var ErrRevoked = errors.New("the guest was not handed over")

// Successor is the machine in the new process.
type Successor interface {
	LoadState(sections []state.Section) error
	Resume(ctx context.Context) error
}

// maxOffered bounds the files of an offer.
const maxOffered = 4096

// Take waits for an offer on l, has prepare build the machine from it, which
// owns the offer's files from then on, and takes the guest over. at is told each
// step before it is done; nil is fine. After nil the guest runs here; after an
// error it does not, and what becomes of it is the old process's to say.
func Take(ctx context.Context, l *Link, prepare func(context.Context, Offer) (Successor, error), at func(step string)) error {
	if at == nil {
		at = func(string) {}
	}
	offer, err := listen(l)
	if err != nil {
		return err
	}
	at("prepare")
	s, err := prepare(ctx, offer)
	if err != nil {
		return fail(l, err)
	}
	if err := l.send(message{Type: "prepared"}); err != nil {
		return revoked(err)
	}
	if err := load(l, s, at); err != nil {
		return err
	}
	m, files, err := l.receive(0)
	closeFiles(files)
	if err != nil || m.Type != "go" {
		return revoked(err)
	}
	at("taking")
	// The old process reads this even if we die in the next instruction, and then
	// never lets the guest run again. It closes its end only by dying after GO; a
	// guest that nobody else can run is ours.
	if err := l.send(message{Type: "taking"}); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return revoked(err)
	}
	at("running")
	if err := s.Resume(ctx); err != nil {
		return fail(l, fmt.Errorf("resume: %w", err))
	}
	_ = l.send(message{Type: "running"}) // who does not hear it any more does not need it
	return nil
}

// listen reads an offer.
func listen(l *Link) (o Offer, err error) {
	defer func() {
		if err != nil {
			for _, f := range o.Files {
				_ = f.File.Close()
			}
		}
	}()
	for {
		m, files, err := l.receive(time.Minute)
		if err != nil {
			return o, revoked(err)
		}
		for i, f := range files {
			o.Files = append(o.Files, File{m.Names[i], f})
		}
		switch {
		case len(o.Files) > maxOffered:
			return o, fail(l, fmt.Errorf("%w: more than %d files", ErrProtocol, maxOffered))
		case m.Type == "files":
		case m.Type != "offer":
			return o, fail(l, unexpected(m))
		case m.Version != Version:
			return o, fail(l, fmt.Errorf("%w: it speaks version %d of the hand-over, the old process version %d: stop the instance and start it again", ErrProtocol, Version, m.Version))
		default:
			o.Description = m.Description
			return o, nil
		}
	}
}

// load takes the state in.
func load(l *Link, s Successor, at func(string)) error {
	m, files, err := l.receive(0)
	defer closeFiles(files)
	if err != nil || m.Type != "state" || len(files) != 1 {
		return revoked(err)
	}
	at("load")
	sections, err := read(files[0])
	if err == nil {
		err = s.LoadState(sections)
	}
	if err != nil {
		return fail(l, err)
	}
	at("ready")
	if err := l.send(message{Type: "ready"}); err != nil {
		return revoked(err)
	}
	return nil
}

func read(f *os.File) ([]state.Section, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > wire.MaxState+1<<20 {
		return nil, fmt.Errorf("%w: a state of %d bytes", ErrProtocol, st.Size())
	}
	b := make([]byte, st.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		return nil, err
	}
	c := wire.NewCursor(b)
	sections := wire.Sections(c)
	return sections, c.Err()
}

// fail tells the old process why this one gives up.
func fail(l *Link, err error) error {
	text := err.Error()
	_ = l.send(message{Type: "failed", Text: text[:min(len(text), 4096)]}) // or it is gone
	return err
}

func revoked(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return ErrRevoked
	}
	return fmt.Errorf("%w: %w", ErrRevoked, err)
}
