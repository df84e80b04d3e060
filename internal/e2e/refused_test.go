package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shell runs a script in a mount namespace of its own; $HVCTL is the program.
func (h *host) shell(script string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-c", script)
	c.Env = append(h.command(ctx).Env, "HVCTL="+h.bin)
	var out, stderr strings.Builder
	c.Stdout, c.Stderr = &out, &stderr
	var exit *exec.ExitError
	if err := c.Run(); err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return result{out.String(), stderr.String(), c.ProcessState.ExitCode()}
}

// TestHostsThatLackSomethingAreRefused: no KVM, something else in its place, no
// permission, a port that is taken, a store without room. One line, exit status
// 125, nothing left behind.
func TestHostsThatLackSomethingAreRefused(t *testing.T) {
	h := newHost(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, err := net.SplitHostPort(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	small, big := t.TempDir(), t.TempDir()
	if err := randomFile(filepath.Join(big, "random"), 30<<20); err != nil {
		t.Fatal(err)
	}
	run := "exec $HVCTL run --rm --network none --kernel " + fast + " debian:bookworm true"
	for _, c := range []struct{ name, script, want string }{
		{"no KVM", "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && " + run, "/dev/kvm: no such file"},
		{"no KVM device", "mount --bind /dev/null /dev/kvm && " + run, "not a KVM device"},
		{"no permission", "mount -t tmpfs none /mnt && chmod 700 /mnt && exec setpriv --reuid 65534 --regid 65534 --clear-groups $HVCTL --store /mnt/store images", "permission denied (as user 65534"},
		{"port in use", fmt.Sprintf("exec $HVCTL run --rm --kernel %s -p 127.0.0.1:%s:80 debian:bookworm true", fast, port), "port is in use"},
		{"disk full", fmt.Sprintf("mount -t tmpfs -o size=20m none %s && exec $HVCTL --store %s import %s x:1", small, small, big), "no space left"},
		{"missing kernel", "exec $HVCTL run --rm --kernel /nonexistent/vmlinuz debian:bookworm true", "/nonexistent/vmlinuz"},
		{"a directory as kernel", "exec $HVCTL run --rm --kernel /etc debian:bookworm true", "not a regular file"},
		{"32-bit kernel", `printf '\177ELF\001\001\001' >k && head -c 2000 /dev/zero >>k && exec $HVCTL run --rm --kernel ./k debian:bookworm true`, "32-bit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := h.in(t).shell("cd " + t.TempDir() + " && " + c.script)
			if r.code != 125 || r.out != "" || !strings.Contains(r.err, c.want) || strings.Count(r.err, "\n") != 1 {
				t.Errorf("exit %d, stdout %q, stderr %q; want 125 and one line with %q", r.code, r.out, r.err, c.want)
			}
		})
	}
}
