package kvm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

// pipeFD returns an fd that owns the read end of a pipe.
func pipeFD(t *testing.T) *fd {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(p[1]) })
	f := &fd{}
	f.init(p[0], "pipe")
	return f
}

func isOpen(n int) bool {
	_, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	return err == nil
}

func TestCloseWaitsForTheLastCall(t *testing.T) {
	f := pipeFD(t)
	fini := 0
	f.fini = func() { fini++ }
	n, err := f.acquire()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	if !isOpen(n) || fini != 0 {
		t.Error("close released the descriptor under a call")
	}
	if _, err := f.acquire(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("acquire after close: %v, want os.ErrClosed", err)
	}
	f.release()
	if isOpen(n) || fini != 1 {
		t.Errorf("after the last call: open %v, unmapped %d times; want closed and once", isOpen(n), fini)
	}
	if err := f.close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if fini != 1 {
		t.Errorf("unmapped %d times", fini)
	}
}

func TestConcurrentCallsAndClose(t *testing.T) {
	for range 200 {
		f := pipeFD(t)
		n := f.n
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					got, err := f.acquire()
					if err != nil {
						return
					}
					if !isOpen(got) {
						t.Error("acquired a closed descriptor")
					}
					f.release()
				}
			})
		}
		wg.Go(func() { _ = f.close() })
		wg.Go(func() { _ = f.close() })
		wg.Wait()
		if isOpen(n) {
			t.Fatal("descriptor is open after close and all calls")
		}
	}
}

func TestEverythingIsCloseOnExecAndReleased(t *testing.T) {
	testenv.Require(t, testenv.KVM)
	before := countFDs(t)
	for range 20 {
		s, err := Open()
		if err != nil {
			t.Fatal(err)
		}
		vm, err := s.CreateVM()
		if err != nil {
			t.Fatal(err)
		}
		v, err := vm.CreateVCPU(0)
		if err != nil {
			t.Fatal(err)
		}
		st, err := v.StatsFD()
		if err != nil && !errors.Is(err, ErrNotSupported) {
			t.Fatal(err)
		}
		for _, f := range []*fd{&s.fd, &vm.fd, &v.fd} {
			flags, err := unix.FcntlInt(uintptr(f.n), unix.F_GETFD, 0)
			if err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("%s: flags %#x, %v; want close-on-exec", f.name, flags, err)
			}
		}
		if st != nil {
			if flags, err := unix.FcntlInt(uintptr(st.fd.n), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("stats: flags %#x, %v; want close-on-exec", flags, err)
			}
			_ = st.Close()
		}
		// Errors on the way must not leak either.
		if _, err := vm.CreateVCPU(0); !errors.Is(err, unix.EEXIST) {
			t.Errorf("second vCPU 0: %v, want EEXIST", err)
		}
		for _, c := range []interface{ Close() error }{s, vm, v} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if after := countFDs(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	_, err := OpenDevice(filepath.Join(dir, "kvm"))
	wantErr(t, err, fs.ErrNotExist)
	if !strings.Contains(err.Error(), "load kvm-intel or kvm-amd") {
		t.Errorf("message %q has no advice", err)
	}
	// A file and a device that are not KVM.
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{plain, "/dev/null"} {
		_, err = OpenDevice(path)
		wantErr(t, err, ErrAPIVersion)
	}
	before := countFDs(t)
	for range 10 {
		_, _ = OpenDevice("/dev/null")
	}
	if after := countFDs(t); after != before {
		t.Errorf("failed opens leak: %d descriptors before, %d after", before, after)
	}
}

func TestAllRequestsAreListed(t *testing.T) {
	src, err := os.ReadFile("ioctls.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`(?m)^\treq\w+ .*?"(KVM_\w+)"`).FindAllSubmatch(src, -1) {
		want = append(want, string(m[1]))
	}
	var got []string
	for _, r := range allRequests {
		got = append(got, r.name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if len(want) < 60 || !slices.Equal(got, want) {
		t.Errorf("requests_test.go lists %v\nioctls.go defines %v", got, want)
	}
}

// TestEINTRPolicy holds the table in doc.go against the code: KVM_RUN alone
// hands EINTR to its caller.
func TestEINTRPolicy(t *testing.T) {
	for _, r := range allRequests {
		want := eintrRetry
		if r.name == "KVM_RUN" {
			want = eintrReturn
		}
		if r.eintr != want {
			t.Errorf("%s: policy %d, want %d", r.name, r.eintr, want)
		}
	}
}
