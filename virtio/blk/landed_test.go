package blk

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/uring"
)

// A thread that ends takes with it what it has begun on a ring: the guest's request
// is done all the same.
func TestWhatTheKernelGivesUpIsDoneAllTheSame(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{Path: path, Engine: EnginePlain})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	w := d.workers[0]
	for _, errno := range []unix.Errno{unix.ECANCELED, unix.EINTR, unix.EAGAIN} {
		gave := uring.Completion{Result: -int32(errno)}
		if err := w.landed(&slot{request: request{kind: typeFlush}}, gave); err != nil {
			t.Errorf("flush, %v: %v", errno, err)
		}
		data := bytes.Repeat([]byte{byte(errno)}, 512)
		if err := w.landed(&slot{request: request{kind: typeOut}, span: span{off: 512, n: 512}, bufs: [][]byte{data}}, gave); err != nil {
			t.Errorf("write, %v: %v", errno, err)
		}
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b[512:1024], data) {
			t.Errorf("write, %v: not on the disk (%v)", errno, err)
		}
		read := make([]byte, 512)
		if err := w.landed(&slot{request: request{kind: typeIn}, span: span{off: 512, n: 512}, bufs: [][]byte{read}}, gave); err != nil || !bytes.Equal(read, data) {
			t.Errorf("read, %v: %v", errno, err)
		}
	}
	if err := w.landed(&slot{request: request{kind: typeFlush}}, uring.Completion{Result: -int32(unix.EIO)}); err == nil {
		t.Error("an error of the disk's was swallowed")
	}
}
