package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// TestProcessOptions: what run is told of the process is what the process
// finds in the instance.
func TestProcessOptions(t *testing.T) { onBoth(t, processOptions) }

func processOptions(t *testing.T, h *host) {
	script := `id -u; id -g; pwd; echo "$GREETING"; hostname; ulimit -n
grep CapEff /proc/self/status | cut -f2
touch /nope 2>/dev/null && echo root is writable || echo root is read-only
echo x >/scratch/f && cat /scratch/f; df -k /scratch | tail -1 | awk '{print $2}'
grep -c other.test /etc/hosts`
	out := h.ok(h.run("--rm", "--network", "none", "-u", "65534:65533", "-w", "/usr/share", "-e", "GREETING=hello  you",
		"--hostname", "box", "--ulimit", "nofile=333:444", "--read-only", "--tmpfs", "/scratch:size=1m,mode=1777", "--add-host", "other.test:10.9.9.9",
		"debian:bookworm", "sh", "-c", script)...)
	want := "65534\n65533\n/usr/share\nhello  you\nbox\n333\n0000000000000000\nroot is read-only\nx\n1024\n1\n"
	if out != want {
		t.Errorf("printed\n%s\nwant\n%s", out, want)
	}
	out = h.ok(h.run("--rm", "--network", "none", "--cap-drop", "CHOWN", "--cap-add", "SYS_TIME", "--sysctl", "kernel.msgmax=7777",
		"--security-opt", "no-new-privileges", "--entrypoint", "/bin/sh",
		"debian:bookworm", "-c", "grep -E 'CapBnd|NoNewPrivs' /proc/self/status | cut -f2; cat /proc/sys/kernel/msgmax; chown 1 /etc/hostname 2>&1 | grep -c permitted; echo $$")...)
	f := strings.Fields(out)
	if len(f) != 5 || f[1] != "1" || f[2] != "7777" || f[3] != "1" || f[4] != "1" {
		t.Fatalf("printed %q", out)
	}
	var caps uint64
	if _, err := fmt.Sscanf(f[0], "%x", &caps); err != nil || caps&1 != 0 || caps>>25&1 != 1 || caps>>21&1 != 0 {
		t.Errorf("capabilities %s (%v): want SYS_TIME, neither CHOWN nor SYS_ADMIN", f[0], err)
	}
}

// TestLongLived: what is done to an instance that is up, on one boot.
func TestLongLived(t *testing.T) { onBoth(t, longLived) }

func longLived(t *testing.T, h *host) {
	h.ok(h.run("-d", "-i", "--name", "long", "-p", "127.0.0.1:18099:80", "--stop-timeout", "1", "debian:bookworm", "sh", "-c",
		"trap '' TERM; echo ready; while read l; do echo got $l; done; while :; do sleep 1; done")...)
	t.Run("exec's exit code, user, directory and input", func(t *testing.T) {
		h := h.in(t)
		r := h.hvctl("exec", "-u", "nobody", "-w", "/tmp", "-e", "A=b", "long", "sh", "-c", "id -un; pwd; echo $A; echo err >&2; exit 9")
		if r.code != 9 || r.out != "nobody\n/tmp\nb\n" || r.err != "err\n" {
			t.Errorf("exec: exit %d, %q, %q", r.code, r.out, r.err)
		}
		c := h.command(t.Context(), "exec", "-i", "long", "wc", "-c")
		c.Stdin = strings.NewReader(strings.Repeat("x", 300000))
		if out, err := c.Output(); err != nil || strings.TrimSpace(string(out)) != "300000" {
			t.Errorf("wc counted %q (%v)", out, err)
		}
		if r := h.hvctl("exec", "long", "nosuch"); r.code != 127 {
			t.Errorf("exec of a missing program: exit %d, %q", r.code, r.err)
		}
	})
	t.Run("many short execs at once keep their output", func(t *testing.T) {
		// Each one's end interrupts what the others are doing: SIGCHLD.
		h := h.in(t)
		var wg sync.WaitGroup
		for lane := range 4 {
			wg.Go(func() {
				for i := range 8 {
					want := fmt.Sprintf("%d.%d\n", lane, i)
					if r := h.hvctl("exec", "long", "echo", strings.TrimSpace(want)); r.code != 0 || r.out != want || r.err != "" {
						t.Errorf("exit %d, stdout %q, stderr %q; want 0, %q", r.code, r.out, r.err, want)
					}
				}
			})
		}
		wg.Wait()
	})
	logs := h.start("logs", "-f", "long")
	logs.expect("ready")
	t.Run("logs -f follows while attach types", func(t *testing.T) {
		h := h.in(t)
		attach := h.start("attach", "long")
		attach.typ("one\n")
		attach.expect("got one")
		logs.expect("got one")
		_ = attach.cmd.Process.Kill()
		attach.wait()
		if h.ok("inspect", "--format", "{{.State.Status}}", "long") != "running\n" {
			t.Error("an attach that was killed took the instance with it")
		}
	})
	t.Run("refused while it runs", func(t *testing.T) {
		h := h.in(t)
		for what, r := range map[string]result{
			"name is in use": h.hvctl(h.run("-d", "--name", "long", "--network", "none", "debian:bookworm", "true")...),
			"18099":          h.hvctl(h.run("--rm", "-p", "127.0.0.1:18099:80", "debian:bookworm", "true")...),
			"running":        h.hvctl("rm", "long"),
		} {
			if r.code == 0 || r.out != "" || !strings.Contains(r.err, what) || strings.Count(r.err, "\n") != 1 {
				t.Errorf("exit %d, stdout %q, stderr %q; want one line with %q", r.code, r.out, r.err, what)
			}
		}
	})
	t.Run("a stop signal that is ignored ends in a kill", func(t *testing.T) {
		h := h.in(t)
		h.ok("stop", "long")
		if r := h.hvctl("wait", "long"); r.out != "137\n" {
			t.Errorf("wait printed %q, %q", r.out, r.err)
		}
		if code := logs.wait(); code != 0 { // it ends with the instance
			t.Errorf("logs -f: exit %d, %q", code, logs.text())
		}
	})
	h.ok("rm", "long")
}

// TestRefusedByName: one line, exit status 125, nothing booted.
func TestRefusedByName(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct {
		want string
		args []string
	}{
		{"--cpus", []string{"run", "--rm", "--network", "none", "--cpus", "9999", "debian:bookworm", "true"}},
		{"registry.invalid", []string{"run", "--rm", "registry.invalid/no/such:tag", "true"}},
		{"registry.invalid", []string{"pull", "registry.invalid/no/such:tag"}},
		{"nosuch", []string{"run", "--rm", "--pull", "never", "nosuch:tag", "true"}},
		{"nosuch-kernel", []string{"run", "--rm", "--network", "none", "--kernel", "nosuch-kernel", "debian:bookworm", "true"}},
		{"capability", []string{"run", "--rm", "--network", "none", "--cap-add", "CAP_FLY", "debian:bookworm", "true"}},
	} {
		r := h.hvctl(c.args...)
		if r.code != 125 || r.out != "" || !strings.Contains(strings.ToLower(r.err), c.want) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%v: exit %d, stdout %q, stderr %q; want 125 and one line with %q", c.args, r.code, r.out, r.err, c.want)
		}
	}
}

// TestDoctorSaysVMsCanRun: where the other tests pass, doctor agrees.
func TestDoctorSaysVMsCanRun(t *testing.T) {
	h := newHost(t)
	if out := h.ok("doctor", "--json"); !strings.Contains(out, `"usable": true`) {
		t.Errorf("doctor printed %s", out)
	}
}
