package swrk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"github.com/hvctl/hvctl/internal/criu"
	"golang.org/x/sys/unix"
)

// TestFindSaysWhatToDo where there is no CRIU, or one that says nothing.
func TestFindSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if _, err := Find(t.Context()); !errors.Is(err, criu.ErrMissing) || !strings.Contains(err.Error(), "apt-get install criu") {
		t.Errorf("without criu: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "criu"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(t.Context()); !errors.Is(err, criu.ErrMissing) || !strings.Contains(err.Error(), "died before it answered") {
		t.Errorf("with one that fails: %v", err)
	}
}

// TestCheckTellsWhatCRIUSays: the first error is the cause.
func TestCheckTellsWhatCRIUSays(t *testing.T) {
	tool := &Tool{Path: filepath.Join(t.TempDir(), "criu"), Version: 31701}
	script := "#!/bin/sh\necho 'Error (criu/vdso.c:1): vdso: bad' >&2\necho 'Error (criu/cr.c:2): more' >&2\nexit 1\n"
	if err := os.WriteFile(tool.Path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	err := tool.Check(t.Context())
	if !errors.Is(err, criu.ErrMissing) || !strings.Contains(err.Error(), "criu 3.17.1") || !strings.Contains(err.Error(), "vdso: bad;") {
		t.Error(err)
	}
}

// TestDeadCRIUEndsTheJob, and so does a caller that gives up.
func TestDeadCRIUEndsTheJob(t *testing.T) {
	tool := &Tool{Path: filepath.Join(t.TempDir(), "criu")}
	if err := os.WriteFile(tool.Path, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	gaveUp := errors.New("gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gaveUp)
	if _, err := tool.call(ctx, &rpc.CriuReq{Type: new(rpc.CriuReqType_VERSION)}, new(criu.Job)); err == nil {
		t.Error("it was answered")
	}
}

// FuzzReceive: whatever comes over the connection is an answer or an error.
func FuzzReceive(f *testing.F) {
	ok, err := (&rpc.CriuResp{Type: new(rpc.CriuReqType_NOTIFY), Success: new(true), Notify: &rpc.CriuNotify{Script: new("post-dump")}}).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ok)
	f.Add([]byte{8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || len(b) > 1<<14 {
			return
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		conn := os.NewFile(uintptr(pair[0]), "criu")
		defer conn.Close()
		defer unix.Close(pair[1])
		if err := unix.Send(pair[1], b, 0); err != nil {
			t.Fatal(err)
		}
		resp, fd, err := receive(conn)
		if fd != nil || (err == nil) == (resp == nil) {
			t.Errorf("%v, %v, %v", resp, fd, err)
		}
	})
}
