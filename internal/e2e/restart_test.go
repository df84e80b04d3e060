package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A container goes elsewhere: what it has written, removed and replaced is
// there, its process is a new one, and it runs in one place at any time.
func TestAContainerIsStartedAfreshElsewhere(t *testing.T) {
	h := newHost(t)
	h.ok("run", "-d", "--backend", "container", "--name", "from", "--network", "none", "-e", "WORD=said", "--tmpfs", "/scratch",
		"debian:bookworm", "sh", "-c", "echo $WORD >> /began; sleep 1000")
	eventually(t, "it has begun", func() bool { return h.hvctl("exec", "from", "test", "-s", "/began").code == 0 })
	h.ok("exec", "from", "sh", "-c", "rm /etc/motd; rm -r /opt; mkdir -m 711 /opt; echo new > /opt/f; ln /opt/f /opt/g; chown 7:8 /opt/f; chmod 4755 /opt/f; echo lost > /scratch/f")
	at := "unix:" + filepath.Join(h.root, ".sock")
	send := func(name string) result {
		return h.hvctl("migrate", "send", name, "--to", at, "--mode", "restart", "--json")
	}

	if r := h.hvctl("migrate", "send", "from", "--to", at); r.code == 0 || !strings.Contains(r.err, "--mode restart") {
		t.Errorf("sent to go on: exit %d, %s", r.code, r.err)
	}
	done := h.receive("to", at, "--mode", "restart")
	if out := h.ok("migrate", "plan", "from", "--to", at, "--mode", "restart"); !strings.Contains(out, "empty when it is started afresh") {
		t.Errorf("the plan: %s", out)
	}
	r := send("from")
	var report struct {
		Outcome string
		Layer   uint64 `json:"layer_bytes"`
	}
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || report.Outcome != "handed" || report.Layer == 0 {
		t.Fatalf("exit %d, %v, %+v: %s", r.code, err, report, r.err)
	}
	if id := done(); h.inspect("to", "{{.Config.ID}}") != id || h.inspect("from", "{{.State.Status}}") != "exited" {
		t.Errorf("%q has come, and the source is %s", id, h.inspect("from", "{{.State.Status}}"))
	}
	eventually(t, "it has begun again", func() bool { return strings.Count(h.ok("exec", "to", "cat", "/began"), "said") == 2 })
	if out := h.ok("exec", "to", "sh", "-c", "stat -c '%a %u %g %h' /opt/f; cat /opt/g; ls /etc/motd /scratch/f /opt/.wh* 2>&1 | grep -c No; stat -c %a /opt"); out != "4755 7 8 2\nnew\n3\n711\n" {
		t.Errorf("there is now\n%s", out)
	}

	// Over TLS: one that takes long is looked at, and called off.
	h.ok("exec", "to", "sh", "-c", "head -c 3000000 /dev/urandom > /big; rm /bin/sh")
	if r := h.hvctl("migrate", "cancel", "to"); r.code == 0 || !strings.Contains(r.err, "no migration") {
		t.Errorf("nothing to cancel: exit %d, %s", r.code, r.err)
	}
	tls := []string{"127.0.0.1:7443", "--mode", "restart", "--allow", strings.TrimSpace(h.ok("migrate", "identity"))}
	c := h.start(append([]string{"migrate", "receive", "--name", "third", "--listen"}, tls...)...)
	eventually(t, "somebody listens", func() bool { return h.hvctl(append([]string{"migrate", "plan", "to", "--to"}, tls...)...).code == 0 })
	slow := h.start(append([]string{"migrate", "send", "to", "--rate", "100K", "--to"}, tls...)...)
	eventually(t, "it is being moved", func() bool {
		return strings.HasPrefix(h.ok("migrate", "status", "to"), "to 127.0.0.1:7443, for") && h.inspect("to", "{{.State.Status}}") == "paused"
	})
	h.ok("migrate", "cancel", "to")
	if code := slow.wait(); code == 0 || !strings.Contains(slow.text(), "goes on here") {
		t.Errorf("cancelled: exit %d, %s", code, slow.text())
	}
	if out := h.ok("migrate", "status", "to"); !strings.Contains(out, "over:") {
		t.Errorf("cancelled, the status is %s", out)
	}

	// A start that fails there, with a command that is gone, leaves it here.
	if r := h.hvctl(append([]string{"migrate", "send", "to", "--to"}, tls...)...); r.code == 0 || !strings.Contains(r.err, "promised never to run") || !strings.Contains(r.err, "goes on here") {
		t.Errorf("a start that fails: exit %d, %s", r.code, r.err)
	}
	h.ok("exec", "to", "true")
	h.signal(c.cmd.Process.Pid, unix.SIGINT)
	if code := c.wait(); code == 0 || !strings.Contains(c.text(), "executable file not found") {
		t.Errorf("the destination: exit %d, %s", code, c.text())
	}

	// What may run elsewhere is not let go on, until somebody decides.
	h.ok("pause", "to")
	record := filepath.Join(h.root, h.inspect("to", "{{.Config.ID}}"), "migration.json")
	b, err := os.ReadFile(record)
	if err == nil {
		err = os.WriteFile(record, []byte(strings.Replace(string(b), `"kept"`, `"intent"`, 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r := h.hvctl("resume", "to"); r.code == 0 || !strings.Contains(r.err, "in doubt") {
		t.Errorf("resumed in doubt: exit %d, %s", r.code, r.err)
	}
	h.ok("migrate", "resolve", "to", "--keep", "source", "--i-have-fenced-destination")
	h.ok("exec", "to", "true")
	h.ok("rm", "-f", "from", "to")
}

// A VM, too: with what it has written to its root, which is in the guest's memory, and to its
// disk. It goes on where it was when its start fails elsewhere.
func TestAVMIsStartedAfreshElsewhere(t *testing.T) {
	h := newHost(t)
	disk := filepath.Join(h.root, ".disk")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	h.ok("run", "-d", "--name", "from", "--kernel", fast, "--memory", "256M", "--network", "none", "--disk", "path="+disk, "--cmdline", "hvctl.mine=1",
		"debian:bookworm", "sh", "-c", "echo said >> /began; while :; do echo >> /counted; done")
	eventually(t, "it has begun", func() bool { return h.hvctl("exec", "from", "test", "-s", "/began").code == 0 })
	h.ok("exec", "from", "sh", "-c", "rm /etc/motd; echo kept | dd of=$(ls /dev/vd?) conv=notrunc; mv /bin/sh /bin/other")
	at := "unix:" + filepath.Join(h.root, ".sock")
	send := func() result {
		return h.hvctl("migrate", "send", "from", "--to", at, "--mode", "restart", "--json")
	}

	c := h.start("migrate", "receive", "--listen", at, "--name", "second", "--mode", "restart")
	eventually(t, "somebody listens", func() bool { return fileExists(strings.TrimPrefix(at, "unix:")) })
	if r := send(); r.code == 0 || !strings.Contains(r.err, "goes on here") {
		t.Errorf("a start that fails: exit %d, %s", r.code, r.err)
	}
	h.signal(c.cmd.Process.Pid, unix.SIGINT)
	if code := c.wait(); code == 0 || !strings.Contains(c.text(), "executable file not found") {
		t.Errorf("the destination: exit %d, %s", code, c.text())
	}
	size := h.ok("exec", "from", "stat", "-c", "%s", "/counted")
	eventually(t, "the workload goes on", func() bool { return h.ok("exec", "from", "stat", "-c", "%s", "/counted") != size })
	h.ok("exec", "from", "mv", "/bin/other", "/bin/sh")

	done := h.receive("to", at, "--mode", "restart")
	r := send()
	if r.code != 0 || !strings.Contains(r.out, `"handed"`) {
		t.Fatalf("exit %d: %s", r.code, r.err)
	}
	if done(); h.inspect("from", "{{.State.Status}}") != "exited" {
		t.Errorf("the source is %s", h.inspect("from", "{{.State.Status}}"))
	}
	h.ok("rm", "from")
	eventually(t, "it has begun again", func() bool { return strings.Count(h.ok("exec", "to", "cat", "/began"), "said") == 2 })
	out := h.ok("exec", "to", "sh", "-c", "ls /etc/motd 2>&1 | grep -c No; head -c 4 /dev/vd?; grep -o hvctl.mine=1 /proc/cmdline")
	if out != "1\nkepthvctl.mine=1\n" {
		t.Errorf("there is now\n%s", out)
	}
	h.ok("rm", "-f", "to")
}
