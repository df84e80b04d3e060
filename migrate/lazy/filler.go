package lazy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/uffd"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

// WorkingSetFile is the name of the note beside a snapshot file.
const WorkingSetFile = "working-set"

// maxHandlers bounds how often a handler that dies is replaced.
const maxHandlers = 10

// ErrLost is wrapped when memory that a guest needs cannot be had.
var ErrLost = errors.New("the guest's memory cannot be read from its snapshot")

// lost is the error for memory that cannot be had.
func (l layout) lost(why error) error {
	if l.Remote != nil {
		text := strings.TrimPrefix(why.Error(), migrate.ErrLost.Error()+": ") // the handler's word may begin so
		return fmt.Errorf("%w: %s", migrate.ErrLost, text)
	}
	return fmt.Errorf("%w: %w", ErrLost, why)
}

// Options say how to fill memory.
type Options struct {
	// Command starts a process that calls Serve with the argument that is appended.
	Command []string
	// Lost is told, once, that the guest cannot go on. Whoever touches missing pages
	// waits for ever then; the caller has deadmanAfter to end itself.
	Lost func(error)
	// LostFile, when set, takes the reason first, from the handler: the owner may
	// already hang.
	LostFile string
	Log      *slog.Logger
}

// Filler is the owner's side: memory that is being filled.
type Filler struct {
	o      Options
	layout layout
	from   []*os.File // what the handler reads from: its further descriptors
	uffd   *os.File
	done   chan struct{} // closed when everything is there, or nothing will come any more

	mu       sync.Mutex // guards what follows
	link     *os.File
	cmd      *exec.Cmd
	handlers int
	hurry    bool
	closed   bool
	err      error
}

// Fill has the pages of ram, which is a memfd's of zeroes that nobody has touched,
// come from s when they are touched. s may be closed afterwards, and its file
// removed. Errors that wrap uffd.ErrUnavailable say what the host lacks.
func Fill(s *snapshot.Snapshot, ram []memory.Region, o Options) (*Filler, error) {
	u, err := uffd.Open()
	if err != nil {
		return nil, err
	}
	f := &Filler{o: o, uffd: u, done: make(chan struct{})}
	f.layout = layout{Owner: os.Getpid(), LostFile: o.LostFile, WorkingSet: filepath.Join(filepath.Dir(s.File().Name()), WorkingSetFile)}
	err = func() error {
		for _, r := range ram {
			f.layout.Regions = append(f.layout.Regions, place{Size: r.Size})
		}
		if err := f.layout.fits(s); err != nil {
			return err
		}
		for i, r := range ram {
			if f.layout.Regions[i].Addr, err = uffd.Register(u, r.Bytes); err != nil {
				return err
			}
		}
		snap, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", s.File().Fd())) // a position of its own
		if err != nil {
			return err
		}
		f.from = append(f.from, snap)
		return f.start()
	}()
	if err != nil {
		f.free()
		return nil, err
	}
	return f, nil
}

// free closes the descriptors.
func (f *Filler) free() {
	_ = f.uffd.Close()
	for _, x := range f.from {
		_ = x.Close()
	}
}

// start starts a handler. mu is held, or nobody else knows f.
func (f *Filler) start() error {
	here, there, err := handoff.Pair()
	if err != nil {
		return err
	}
	defer there.Close()
	fd, err := unix.FcntlInt(here.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		_ = here.Close()
		return os.NewSyscallError("fcntl", err)
	}
	ear := os.NewFile(uintptr(fd), here.Name()) // watch's own: Close may close the other at any time
	argv := append(append([]string(nil), f.o.Command...), f.layout.encode())
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stderr = "/", os.Stderr
	cmd.ExtraFiles = append([]*os.File{there, f.uffd}, f.from...)
	if err := cmd.Start(); err != nil {
		_, _ = ear.Close(), here.Close()
		return fmt.Errorf("start the fault handler: %w", err)
	}
	f.link, f.cmd = here, cmd
	f.handlers++
	go f.watch(ear, here, cmd)
	if f.hurry {
		_ = handoff.Tell(here, wordHurry) // or it is dead: watch sees that
	}
	return nil
}

// watch hears one handler to its end.
func (f *Filler) watch(ear, link *os.File, cmd *exec.Cmd) {
	word, err := handoff.Hear(ear, 0)
	_ = ear.Close()
	if why, failed := strings.CutPrefix(word, wordFailed); failed {
		f.lose(errors.New(why))
		_ = cmd.Wait() // it stays until we have ended, or have had time to
		return
	}
	werr := cmd.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = link.Close()
	switch {
	case f.closed:
	case err == nil && word == wordDone:
		f.end(nil)
	case f.handlers >= maxHandlers:
		go f.lose(fmt.Errorf("the fault handler ended %d times, now with: %w", f.handlers, werr))
	default:
		f.o.Log.Warn("the fault handler ended and is replaced", "how", werr)
		if err := f.start(); err != nil {
			go f.lose(err)
		}
	}
}

// lose says that the guest cannot go on. The userfaultfd stays open: whoever
// waits for a page must not get zeroes.
func (f *Filler) lose(why error) {
	err := f.layout.lost(why)
	f.mu.Lock()
	first := !f.closed && f.err == nil
	if first {
		f.err = err
		close(f.done)
	}
	f.mu.Unlock()
	if first && f.o.Lost != nil {
		f.o.Lost(err)
	}
}

// end frees what filling needs. mu is held.
func (f *Filler) end(err error) {
	f.closed = true
	if f.err == nil {
		f.err = err
		close(f.done)
	}
	f.free()
}

// Complete reads all that is missing. After nil the memory is like any other.
func (f *Filler) Complete(ctx context.Context) error {
	f.mu.Lock()
	f.hurry = true
	if !f.closed && f.err == nil {
		_ = handoff.Tell(f.link, wordHurry) // or it is dead, and the next one is told
	}
	f.mu.Unlock()
	return f.Wait(ctx)
}

// Wait returns when nothing is missing any more, or, with the reason, when nothing
// will come any more.
func (f *Filler) Wait(ctx context.Context) error {
	select {
	case <-f.done:
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Done tells whether nothing is missing any more, nor will come.
func (f *Filler) Done() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// Handler is the process ID of the handler; 0 when there is none any more.
func (f *Filler) Handler() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0
	}
	return f.cmd.Process.Pid
}

// Close ends the handler. Preconditions: nobody touches the memory any more; it
// reads as zeroes where it was missing.
func (f *Filler) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.end(errors.New("closed"))
	_ = f.cmd.Process.Kill()
	return f.link.Close()
}
