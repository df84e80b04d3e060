package uring_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/uring"
)

func newRing(t *testing.T, entries uint32) *uring.Ring {
	t.Helper()
	testenv.Require(t, testenv.URing)
	r, err := uring.New(entries)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func newFile(t *testing.T, content []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// collect submits and waits for n completions, by their data.
func collect(t *testing.T, r *uring.Ring, n int) map[uint64]int32 {
	t.Helper()
	got := map[uint64]int32{}
	for len(got) < n {
		if err := r.Submit(1); err != nil {
			t.Fatal(err)
		}
		for {
			c, ok := r.Next()
			if !ok {
				break
			}
			got[c.Data] = c.Result
		}
	}
	return got
}

func TestWritesArriveAndReadsSeeThem(t *testing.T) {
	r := newRing(t, 8)
	f := newFile(t, make([]byte, 16<<10))
	if err := r.RegisterFiles([]int{int(f.Fd())}); err != nil {
		t.Fatal(err)
	}
	var w [4]uring.Vector
	for i := range w {
		w[i].Set([][]byte{bytes.Repeat([]byte{byte('a' + i)}, 1024), bytes.Repeat([]byte{byte('A' + i)}, 3072)})
		if !r.Write(0, &w[i], int64(i)<<12, uint64(i)) {
			t.Fatal("a ring of 8 is full")
		}
	}
	for d, n := range collect(t, r, 4) {
		if n != 4096 {
			t.Errorf("write %d: %d", d, n)
		}
	}
	if !r.Sync(0, 9) || collect(t, r, 1)[9] != 0 {
		t.Error("no fdatasync")
	}
	buf := make([]byte, 4096)
	var one uring.Vector
	one.Set([][]byte{buf})
	r.Read(0, &one, 2<<12, 7)
	if n := collect(t, r, 1)[7]; n != 4096 || !bytes.Equal(buf, append(bytes.Repeat([]byte{'c'}, 1024), bytes.Repeat([]byte{'C'}, 3072)...)) {
		t.Errorf("read %d bytes: %.8q", n, buf)
	}
}

func TestFullRingSaysSoAndGoesOn(t *testing.T) {
	r := newRing(t, 4)
	f := newFile(t, make([]byte, 4096))
	if err := r.RegisterFiles([]int{int(f.Fd())}); err != nil {
		t.Fatal(err)
	}
	for round := range 50 { // over the ends of both rings
		for i := range 4 {
			if !r.Sync(0, uint64(i)) {
				t.Fatalf("round %d: no room for request %d of 4", round, i)
			}
		}
		if r.Sync(0, 99) {
			t.Fatal("a fifth request in a ring of 4")
		}
		if got := collect(t, r, 4); len(got) != 4 {
			t.Fatalf("round %d: %v", round, got)
		}
	}
}

func TestFailuresComeBackAsErrors(t *testing.T) {
	r := newRing(t, 4)
	f := newFile(t, []byte("x"))
	ro, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if err := r.RegisterFiles([]int{int(ro.Fd())}); err != nil {
		t.Fatal(err)
	}
	var v uring.Vector
	v.Set([][]byte{make([]byte, 512)})
	r.Write(0, &v, 0, 1)
	r.Read(0, &v, 4096, 2)
	got := collect(t, r, 2)
	if c := (uring.Completion{Result: got[1]}); !errors.Is(c.Err(), unix.EBADF) {
		t.Errorf("write to a read-only file: %v", c.Err())
	}
	if got[2] != 0 {
		t.Errorf("read past the end: %d", got[2])
	}
}

func TestCompletionsSignalUnlessTheRingIsQuiet(t *testing.T) {
	r := newRing(t, 4)
	ev, err := eventfd.New("kick")
	if err != nil {
		t.Fatal(err)
	}
	defer ev.Close()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	f := newFile(t, make([]byte, 512))
	if err := r.RegisterFiles([]int{int(f.Fd()), pipe[0]}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second takes the place of the first
		if err := r.Notify(ev.FD()); err != nil {
			t.Fatal(err)
		}
	}
	var now, late uring.Vector
	now.Set([][]byte{make([]byte, 512)})
	late.Set([][]byte{make([]byte, 1)})
	r.Quiet(true)
	r.Read(0, &now, 0, 1)
	if collect(t, r, 1)[1] != 512 {
		t.Fatal("no read from the page cache")
	}
	if _, err := unix.Read(ev.FD(), make([]byte, 8)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a quiet ring signalled: %v", err)
	}
	r.Quiet(false)
	r.Read(1, &late, 0, 2)
	if err := r.Submit(0); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(pipe[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := ev.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, r, 1)[2]; got != 1 {
		t.Errorf("read of the pipe: %d", got)
	}
}

func TestImpossibleSizesAreRefused(t *testing.T) {
	for _, n := range []uint32{0, 3, uring.MaxEntries * 2} {
		if r, err := uring.New(n); err == nil {
			_ = r.Close()
			t.Errorf("a ring of %d entries", n)
		}
	}
}
