package polling_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/polling"
	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func polled(t *testing.T, fd int) bool {
	t.Helper()
	_, ok := testenv.Polled(t)[fd]
	return ok
}

// A quiet file is in no epoll of this process, keeps its mode and its content, and
// can be watched again beside that.
func TestQuietFilesAreNotWatched(t *testing.T) {
	var fds [2]int
	must(t, unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	r, w := os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
	defer w.Close()
	if !polled(t, fds[0]) {
		t.Fatal("the poller does not watch what it was given; this test sees nothing")
	}
	q, err := polling.Off(r)
	must(t, err)
	defer q.Close()
	must(t, r.Close())
	fd := int(q.Fd())
	if polled(t, fd) {
		t.Error("a quiet file is watched")
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v: it blocks", flags, err)
	}
	if err := q.SetDeadline(time.Time{}); !errors.Is(err, os.ErrNoDeadline) {
		t.Errorf("SetDeadline = %v", err)
	}
	v, err := polling.On(q)
	must(t, err)
	defer v.Close()
	must(t, v.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = w.WriteString("x")
	must(t, err)
	var b [2]byte
	if n, err := v.Read(b[:]); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	must(t, v.Close())
	if polled(t, fd) {
		t.Error("watched after all")
	}
}

func TestClosedFilesAreRefused(t *testing.T) {
	f, err := os.Open("/dev/null")
	must(t, err)
	must(t, f.Close())
	if _, err := polling.Off(f); err == nil {
		t.Error("made quiet")
	}
	if _, err := polling.On(f); err == nil {
		t.Error("watched")
	}
}
