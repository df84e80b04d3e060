package ociattack

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// swap exchanges two names without a pause until stop is called. When one of
// them has been removed, repair makes both again; nil: that does not happen.
func swap(t *testing.T, a, b string, repair func()) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			if err == unix.ENOENT && repair != nil {
				repair()
			} else if err != nil {
				t.Errorf("renameat2: %v", err)
				return
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

// TestSwappedMountTargetStaysInside: while containers are made with a mount
// inside a shared folder, somebody with access to that folder exchanges the
// target's parent with a symlink that leads out (CVE-2021-30465 and its kin).
func TestSwappedMountTargetStaysInside(t *testing.T) {
	h := newHost(t)
	shared := filepath.Join(h.dir, "shared")
	if err := os.MkdirAll(filepath.Join(shared, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	victim, changed := h.victim()
	link := filepath.Join(shared, "link")
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	stop := swap(t, filepath.Join(shared, "a"), link, nil)
	defer stop()
	ran := 0
	n := rounds(60)
	for range n {
		b := h.bundle("echo /* /vol/a/*; cat /proc/self/mountinfo")
		b.spec.Mounts = append(b.spec.Mounts,
			specs.Mount{Destination: "/vol", Type: "bind", Source: shared, Options: []string{"rbind"}},
			specs.Mount{Destination: "/vol/a/new", Type: "tmpfs", Source: "tmpfs"},
			specs.Mount{Destination: "/vol/a/sub", Type: "bind", Source: "/proc/sys", Options: []string{"bind"}})
		r := b.run()
		if r.code == 0 {
			ran++
		}
		if strings.Contains(r.out, "precious") || strings.Contains(r.out, " "+victim) {
			t.Errorf("the container saw the victim: %v", r)
		}
		if diff := changed(); diff != "" {
			t.Fatalf("the victim changed; %s", diff)
		}
	}
	t.Logf("%d of %d containers ran", ran, n)

	// The race is one: a program that just makes the target loses it.
	eventually(t, "a naive program is led out", func() bool {
		_ = os.MkdirAll(filepath.Join(shared, "a", "new"), 0o755)
		return changed() != ""
	})
}

// TestSwappedFileTargetStaysInside: the same for a mount onto a file, which a
// runtime makes.
func TestSwappedFileTargetStaysInside(t *testing.T) {
	h := newHost(t)
	victim, changed := h.victim()
	for range rounds(10) {
		b := h.bundle("true")
		if err := os.Mkdir(filepath.Join(b.rootfs, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
		b.symlink(victim, "y")
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/x/made", Type: "bind", Source: "/etc/hostname", Options: []string{"bind"}})
		stop := swap(t, filepath.Join(b.rootfs, "x"), filepath.Join(b.rootfs, "y"), nil)
		for range 3 {
			b.run()
		}
		stop()
		if diff := changed(); diff != "" {
			t.Fatalf("the victim changed; %s", diff)
		}
	}
}

// TestKernelFileSystemsWantRealDirectories: proc and sysfs are not mounted
// where a symlink of the image leads (CVE-2019-19921, CVE-2025-54867).
func TestKernelFileSystemsWantRealDirectories(t *testing.T) {
	h := newHost(t)
	for _, tc := range []struct{ name, at, target string }{
		{"proc, absolute", "proc", "/tmp/x"},
		{"proc, relative", "proc", "tmp/x"},
		{"proc, to the host", "proc", "../../../../../../../proc"},
		{"sys", "sys", "/tmp/x"},
		{"proc, to itself", "proc", "/proc"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := h.bundle("echo ran")
			if err := os.MkdirAll(filepath.Join(b.rootfs, "tmp/x"), 0o755); err != nil {
				t.Fatal(err)
			}
			b.symlink(tc.target, tc.at)
			r := b.run()
			if r.code == 0 || strings.Contains(r.out, "ran") {
				t.Errorf("the container ran: %v", r)
			}
			if !strings.Contains(r.err, "/"+tc.at) {
				t.Errorf("the error does not name /%s: %v", tc.at, r)
			}
		})
	}
	t.Run("a file in its place", func(t *testing.T) {
		b := h.bundle("echo ran")
		if err := os.Remove(filepath.Join(b.rootfs, "proc")); err != nil {
			t.Fatal(err)
		}
		b.write("proc", "")
		if r := b.run(); r.code == 0 {
			t.Errorf("the container ran: %v", r)
		}
	})
}
