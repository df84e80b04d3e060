package uring

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
)

// A ring is a way around filters of system calls: it may not be one to others
// than reading, writing and syncing the files it was given.
func TestRingDoesNothingButItsFiles(t *testing.T) {
	testenv.Require(t, testenv.URing)
	r, err := New(8)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := r.RegisterFiles([]int{int(f.Fd())}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		op, flags uint8
		want      error
	}{
		{"nothing", 0, flagFixedFile, unix.EACCES},
		{"opening a file", 18, flagFixedFile, unix.EACCES},
		{"connecting a socket", 16, flagFixedFile, unix.EACCES},
		{"making a socket", 45, flagFixedFile, unix.EACCES},
		{"syncing a file by its descriptor", opFsync, 0, unix.EACCES},
		{"syncing its file", opFsync, flagFixedFile, nil},
	} {
		e := r.next(c.op, 1)
		e.flags = c.flags
		if c.flags == 0 {
			e.fd = int32(f.Fd())
		}
		if err := r.Submit(1); err != nil {
			t.Fatal(err)
		}
		done, _ := r.Next()
		if !errors.Is(done.Err(), c.want) {
			t.Errorf("%s: %v, want %v", c.name, done.Err(), c.want)
		}
	}
	if err := r.RegisterFiles([]int{int(f.Fd())}); err == nil {
		t.Error("other files can be registered afterwards")
	}
}
