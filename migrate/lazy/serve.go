package lazy

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/uffd"
	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/hvctl/hvctl/migrate/snapshot"
)

const (
	// recordFor is how long after the start of the first restore faults are noted.
	recordFor = 10 * time.Second
	// deadmanAfter is how long an owner may take to end a guest whose memory is
	// lost; one that hangs on a page that never comes is killed then.
	deadmanAfter = 30 * time.Second
)

// What the two processes say to each other.
const (
	wordHurry  = "hurry"   // owner: read all of it
	wordDone   = "done"    // handler: all of it is there, and faults are the kernel's again
	wordFailed = "failed:" // handler: it cannot be read, and why
)

// server answers the faults of one guest.
type server struct {
	layout
	snap *snapshot.Snapshot
	uffd *os.File
	log  *slog.Logger

	buf     []byte // of one chunk; of zeroes, when pages come from another host
	loaded  map[chunk]bool
	ahead   []chunk // to be read when nobody waits
	touched []chunk // by faults, in order
	record  time.Time
	hurry   atomic.Bool
	gone    chan struct{} // closed when the owner is
	wake    *os.File      // an eventfd: hurry was set, or gone closed
}

// Serve answers the faults of the owner that started this process with arg, until
// that ends or has all of its memory. It does not return on success.
func Serve(arg string, log *slog.Logger) error {
	link := fdFile(linkFD, "link")
	for _, fd := range []int{linkFD, uffdFD, snapshotFD} {
		unix.CloseOnExec(fd)
	}
	s := &server{uffd: fdFile(uffdFD, "userfaultfd"), log: log, gone: make(chan struct{})}
	err := s.open(arg)
	if err == nil {
		go s.listen(link)
		if s.Remote != nil {
			err = s.pull()
		} else {
			err = s.serve()
		}
	}
	switch {
	case errors.Is(err, unix.ESRCH): // the owner is gone
		return nil
	case errors.Is(err, unix.ENOENT): // its memory is, and it will be soon: listen hears that
		<-s.gone
		return nil
	case err == nil:
		return handoff.Tell(link, wordDone)
	}
	log.Error("a guest's memory cannot be read", "err", err)
	if s.LostFile != "" {
		if werr := os.WriteFile(s.LostFile, []byte(s.lost(err).Error()), 0o600); werr != nil {
			log.Warn("the reason is not noted", "err", werr)
		}
	}
	if terr := handoff.Tell(link, wordFailed+err.Error()); terr != nil {
		return err
	}
	s.deadman()
	return err
}

func (s *server) open(arg string) (err error) {
	if s.layout, err = decodeLayout(arg); err != nil {
		return err
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	s.wake = os.NewFile(uintptr(fd), "wake")
	if s.Remote != nil {
		return s.wakeAll()
	}
	s.buf, s.loaded = make([]byte, snapshot.ChunkSize), map[chunk]bool{}
	if s.snap, err = snapshot.Open(fmt.Sprintf("/proc/self/fd/%d", snapshotFD)); err != nil {
		return err
	}
	if err := s.fits(s.snap); err != nil {
		return err
	}
	if s.WorkingSet != "" {
		s.ahead, err = loadWorkingSet(s.WorkingSet, fmt.Sprint(s.snap.ID()), s.layout)
		if err != nil {
			s.log.Warn("nothing is read ahead", "err", err)
		}
		if s.ahead == nil && err == nil {
			s.record = time.Now().Add(recordFor)
		}
	}
	return s.wakeAll()
}

// wakeAll makes whoever waits for a handler before us ask again.
func (s *server) wakeAll() error {
	for _, r := range s.Regions {
		if err := uffd.Wake(s.uffd, r.Addr, r.Size); err != nil {
			return err
		}
	}
	return nil
}

// listen hears the owner; its end is ours.
func (s *server) listen(link *os.File) {
	for {
		word, err := handoff.Hear(link, 0)
		if err != nil {
			close(s.gone)
		} else if word == wordHurry {
			s.hurry.Store(true)
		}
		_, _ = s.wake.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
		if err != nil {
			return
		}
	}
}

// serve answers faults, and reads ahead between them. It returns nil when all
// memory is there.
func (s *server) serve() error {
	for {
		select {
		case <-s.gone:
			return unix.ESRCH
		default:
		}
		addr, waits, err := uffd.ReadFault(s.uffd)
		if err != nil {
			return err
		}
		if waits {
			if err := s.fault(addr); err != nil {
				return err
			}
			continue
		}
		if s.hurry.Swap(false) {
			s.everything()
		}
		if len(s.ahead) > 0 {
			c := s.ahead[0]
			s.ahead = s.ahead[1:]
			if err := s.load(c); err != nil {
				return err
			}
			if len(s.ahead) == 0 && s.complete() {
				return s.release()
			}
			continue
		}
		if err := s.sleep(); err != nil {
			return err
		}
	}
}

func (s *server) fault(addr uint64) error {
	c, ok := s.at(addr)
	if !ok {
		return fmt.Errorf("a fault at %#x, outside of the guest's memory", addr)
	}
	if !s.record.IsZero() && !s.loaded[c] {
		s.touched = append(s.touched, c)
	}
	if s.loaded[c] { // it came while we were reading it
		return uffd.Wake(s.uffd, addr&^(uffd.PageSize-1), uffd.PageSize)
	}
	return s.load(c)
}

func (s *server) load(c chunk) error {
	if s.loaded[c] {
		return nil
	}
	addr, size := s.bounds(c)
	b := s.buf[:size]
	if _, err := s.snap.ReadChunk(c.region, c.n, b); err != nil {
		return err
	}
	if err := uffd.Copy(s.uffd, addr, b); err != nil {
		return err
	}
	s.loaded[c] = true
	return nil
}

// everything puts all that the file has on the list.
func (s *server) everything() {
	s.ahead = nil
	for i := range s.Regions {
		for n := range s.chunks(i) {
			if c := (chunk{i, n}); !s.loaded[c] && s.snap.Stores(i, n) {
				s.ahead = append(s.ahead, c)
			}
		}
	}
	s.ahead = append(s.ahead, chunk{}) // so that the end is seen even if nothing is missing
}

// complete tells whether everything that is not zero is there.
func (s *server) complete() bool {
	for i := range s.Regions {
		for n := range s.chunks(i) {
			if s.snap.Stores(i, n) && !s.loaded[chunk{i, n}] {
				return false
			}
		}
	}
	return true
}

// release gives the faults back to the kernel: what is missing is zero.
func (s *server) release() error {
	s.save()
	for _, r := range s.Regions {
		if err := uffd.Unregister(s.uffd, r.Addr, r.Size); err != nil {
			return err
		}
	}
	return nil
}

// sleep waits for a fault, a word of the owner's or the end of recording.
func (s *server) sleep() error {
	timeout := -1
	if !s.record.IsZero() {
		left := time.Until(s.record)
		if left <= 0 {
			s.save()
			return nil
		}
		timeout = int(left.Milliseconds()) + 1
	}
	fds := []unix.PollFd{{Fd: uffdFD, Events: unix.POLLIN}, {Fd: int32(s.wake.Fd()), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, timeout)
	if fds[1].Revents != 0 {
		var b [8]byte
		_, _ = unix.Read(int(fds[1].Fd), b[:])
	}
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	return os.NewSyscallError("poll", err)
}

// save notes what was touched, once.
func (s *server) save() {
	if s.record.IsZero() {
		return
	}
	s.record = time.Time{}
	if err := saveWorkingSet(s.WorkingSet, fmt.Sprint(s.snap.ID()), s.touched); err != nil {
		s.log.Warn("the working set is not noted", "err", err)
	}
	s.touched = nil
}

// deadman waits for the end of an owner that was told that its guest is lost. It
// may be unable to end: a goroutine that waits for a page holds up the garbage
// collector.
func (s *server) deadman() {
	select {
	case <-s.gone:
		return
	case <-time.After(deadmanAfter):
	}
	if os.Getppid() == s.Owner {
		s.log.Error("the owner does not end, and is killed", "pid", s.Owner)
		_ = unix.Kill(s.Owner, unix.SIGKILL)
	}
}
