package ociattack

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// leaking hands descriptors 3 to 20, all of the host's root folder, to a
// command, as a careless caller does.
func leaking(t *testing.T) func(*exec.Cmd) {
	t.Helper()
	root, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return func(c *exec.Cmd) {
		for range 18 {
			c.ExtraFiles = append(c.ExtraFiles, root)
		}
	}
}

// TestNoDescriptorLeaks: the process has its standard descriptors and those it
// was to keep, whatever the caller left open (CVE-2024-21626).
func TestNoDescriptorLeaks(t *testing.T) {
	h := newHost(t)
	// The shell's own descriptor of the folder comes and goes with the listing.
	const list = `for f in /proc/self/fd/*; do if [ -e $f ]; then echo ${f##*/}; fi; done`
	for _, tc := range []struct {
		name  string
		flags []string
		want  string
	}{
		{"none are kept", nil, "0 1 2"},
		{"two are kept", []string{"--preserve-fds", "2"}, "0 1 2 3 4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := h.bundle(list).runWith(leaking(t), tc.flags...)
			if got := strings.Join(strings.Fields(r.out), " "); r.code != 0 || got != tc.want {
				t.Errorf("descriptors %q, want %q; %v", got, tc.want, r)
			}
		})
	}
	t.Run("exec", func(t *testing.T) {
		id := h.bundle("sleep 1000").start()
		r := h.doWith(leaking(t), "exec", id, "/bin/sh", "-c", list)
		if got := strings.Join(strings.Fields(r.out), " "); r.code != 0 || got != "0 1 2" {
			t.Errorf("descriptors %q; %v", got, r)
		}
	})
}

// TestWorkingDirectoryStaysInside: neither a leaked descriptor nor one that is
// kept on purpose is a way out by process.cwd.
func TestWorkingDirectoryStaysInside(t *testing.T) {
	h := newHost(t)
	// What is in the host's root folder tells that one is there.
	escaped := "[ -e ." + h.dir + " ] && echo escaped; true"
	for _, flags := range [][]string{nil, {"--preserve-fds", "18"}} {
		for fd := 3; fd <= 20; fd++ {
			for _, proc := range []string{"/proc/self", "/proc/thread-self", "/proc/1"} {
				if proc != "/proc/self" && fd != 7 || thinned(fd) {
					continue
				}
				b := h.bundle(escaped)
				b.spec.Process.Cwd = fmt.Sprintf("%s/fd/%d", proc, fd)
				if r := b.runWith(leaking(t), flags...); strings.Contains(r.out, "escaped") {
					t.Errorf("cwd %s with flags %v: %v", b.spec.Process.Cwd, flags, r)
				}
			}
		}
	}
	id := h.bundle("sleep 1000").start()
	for fd := 3; fd <= 20; fd++ {
		r := h.doWith(leaking(t), "exec", "--cwd", "/proc/self/fd/"+strconv.Itoa(fd), id, "/bin/sh", "-c", escaped)
		if strings.Contains(r.out, "escaped") {
			t.Errorf("exec with descriptor %d: %v", fd, r)
		}
	}

	// The way out is there: a kept descriptor leads to the host's files.
	b := h.bundle("cd /proc/self/fd/3; " + escaped)
	if r := b.runWith(leaking(t), "--preserve-fds", "1"); !strings.Contains(r.out, "escaped") {
		t.Errorf("a kept descriptor does not lead out, so this proves nothing: %v", r)
	}
}

// TestImageSymlinkAsWorkingDirectory: the same by a symlink in the image.
func TestImageSymlinkAsWorkingDirectory(t *testing.T) {
	h := newHost(t)
	b := h.bundle("[ -e ." + h.dir + " ] && echo escaped; true")
	b.symlink("/proc/self/fd/7", "way")
	b.spec.Process.Cwd = "/way"
	if r := b.runWith(leaking(t), "--preserve-fds", "18"); strings.Contains(r.out, "escaped") {
		t.Errorf("%v", r)
	}
}
