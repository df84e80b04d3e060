package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
)

// redis asks the redis of an instance with one published port.
func (h *host) redis(name, command string) string {
	h.t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", h.port(name))
	var reply string
	eventually(h.t, "redis of "+name+" answers", func() bool {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := fmt.Fprintf(c, "%s\r\n", command); err != nil {
			return false
		}
		b := make([]byte, 512)
		n, err := c.Read(b)
		reply = string(b[:n])
		return err == nil
	})
	return strings.TrimSpace(strings.ReplaceAll(reply, "\r\n", " "))
}

func (h *host) inspect(name, format string) string {
	h.t.Helper()
	return strings.TrimSpace(h.ok("inspect", "--format", format, name))
}

func TestASnapshotIsRestoredBesideItsOriginalAndAfterIt(t *testing.T) {
	h := newHost(t)
	tag := filepath.Base(h.root)
	t.Cleanup(func() { h.hvctl("snapshot", "rm", tag) })
	disk := filepath.Join(h.root, ".disk")
	if err := os.WriteFile(disk, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	share := t.TempDir()
	h.ok("run", "-d", "--name", "web", "--kernel", fast, "-p", "127.0.0.1::6379", "--disk", "path="+disk, "-v", share+":/data", "redis")
	if got := h.redis("web", "SET k v"); got != "+OK" {
		t.Fatal(got)
	}
	h.ok("exec", "web", "sh", "-c", "echo mark >/tmp/f; printf before | dd of=/dev/vdb conv=fsync 2>/dev/null")
	// A process besides the first, with a file of the host open.
	h.ok("exec", "-d", "web", "sh", "-c", "exec 3>>/data/log; while :; do hostname >&3; sleep 0.3; done")
	logged := func(name string) func() bool {
		id := h.inspect(name, "{{.Config.ID}}")[:12]
		return func() bool {
			b, _ := os.ReadFile(filepath.Join(share, "log"))
			return strings.Contains(string(b), id)
		}
	}
	eventually(t, "the guest writes to a directory of the host", logged("web"))

	h.ok("snapshot", "create", "web", "--tag", tag)
	if r := h.hvctl("snapshot", "create", "web", "--tag", tag); r.code == 0 || !strings.Contains(r.err, "--replace") {
		t.Errorf("the same name again: exit %d, %s", r.code, r.err)
	}
	if got := h.ok("snapshot", "verify", tag); !strings.Contains(got, "intact") {
		t.Errorf("verify says %q", got)
	}
	var all []struct{ Name, Instance string }
	if err := json.Unmarshal([]byte(h.ok("snapshot", "ls", "--json")), &all); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(fmt.Sprint(all), "{"+tag+" web}") {
		t.Errorf("the list has %v", all)
	}

	// The original goes on, and what it does from now on is its own.
	if got := h.redis("web", "SET k other"); got != "+OK" {
		t.Error(got)
	}
	h.ok("exec", "web", "sh", "-c", "printf after_ | dd of=/dev/vdb conv=fsync 2>/dev/null")

	h.ok("restore", tag, "--name", "web2")
	copied := func(name string) {
		t.Helper()
		if got := h.redis(name, "GET k"); got != "$1 v" {
			t.Errorf("%s: k is %q", name, got)
		}
		out := strings.Fields(h.ok("exec", name, "sh", "-c", "cat /tmp/f; hostname; dd if=/dev/vdb bs=6 count=1 2>/dev/null; echo; cat /etc/hosts"))
		id, ip := h.inspect(name, "{{.Config.ID}}"), h.inspect(name, "{{.State.IP}}")
		if len(out) < 3 || out[0] != "mark" || out[1] != id[:12] || out[2] != "before" || !strings.Contains(strings.Join(out, " "), ip+" "+id[:12]) {
			t.Errorf("%s (%.12s, %s) says %q", name, id, ip, out)
		}
		if ip == h.inspect("web", "{{.State.IP}}") {
			t.Errorf("%s has the original's address %s", name, ip)
		}
	}
	copied("web2")
	eventually(t, "the copy writes to the file that it has open", logged("web2"))
	if got := h.redis("web", "GET k"); got != "$5 other" {
		t.Errorf("the original's k is %q", got)
	}
	random := func(name string) string { return h.ok("exec", name, "cat", "/proc/sys/kernel/random/uuid") }
	h.ok("restore", tag, "--name", "web3", "--no-publish", "--hostname", "third")
	if a, b := random("web2"), random("web3"); a == b {
		t.Errorf("two copies draw the same random number %s", a)
	}
	if got := strings.TrimSpace(h.ok("exec", "web3", "hostname")); got != "third" {
		t.Errorf("hostname %q", got)
	}
	// Both copies reach the original, over addresses of their own.
	for _, name := range []string{"web2", "web3"} {
		ip := h.inspect("web", "{{.State.IP}}")
		if got := strings.TrimSpace(h.ok("exec", name, "redis-cli", "-h", ip, "GET", "k")); got != "other" {
			t.Errorf("%s asks the original for k: %q", name, got)
		}
	}
	h.ok("pause", "web3")
	h.ok("resume", "web3")
	h.ok("snapshot", "create", "web3", "--tag", tag, "--replace") // a copy of a copy
	if r := h.hvctl("stop", "web3"); r.code != 0 {
		t.Errorf("stop: %d, %s", r.code, r.err)
	}
	data := h.inspect("web2", "{{.Config.DataDir}}")
	if !fileExists(filepath.Join(data, "disk0")) {
		t.Errorf("no disk in %q", data)
	}
	h.ok("rm", "-f", "web", "web2", "web3")
	if fileExists(data) {
		t.Errorf("%s was left", data)
	}

	h.ok("restore", tag, "--name", "web4", "--copy", "--rm", "-p", "127.0.0.1::6379")
	if got := h.redis("web4", "GET k"); got != "$1 v" {
		t.Errorf("after the original: k is %q", got)
	}
	h.ok("stop", "web4")
	h.ok("snapshot", "rm", tag)
	if r := h.hvctl("restore", tag); r.code == 0 || !strings.Contains(r.err, "no such snapshot") {
		t.Errorf("restore of a removed snapshot: %d, %s", r.code, r.err)
	}
}

func TestClonesAreDifferentMachinesAndAllAnswer(t *testing.T) {
	const count = 5
	h := newHost(t)
	h.ok("run", "-d", "--name", "web", "--kernel", fast, "-m", "256M", "-p", "127.0.0.1::6379", "redis")
	if got := h.redis("web", "SET k v"); got != "+OK" {
		t.Fatal(got)
	}
	var all []struct {
		ID, Name, IP string
		StartedNs    time.Duration
		PrivateBytes uint64
	}
	if err := json.Unmarshal([]byte(h.ok("clone", "web", "--count", fmt.Sprint(count), "--json")), &all); err != nil || len(all) != count {
		t.Fatalf("%d clones, %v", len(all), err)
	}
	seen := map[string]string{}
	for _, c := range all {
		facts := strings.Fields(h.ok("exec", c.Name, "sh", "-c", "hostname; cat /sys/class/net/eth0/address /proc/sys/kernel/random/uuid; od -An -tx8 -N8 /dev/urandom"))
		for _, f := range append(facts, c.ID, c.IP) {
			if other, twice := seen[f]; twice {
				t.Errorf("%s and %s both have %s", c.Name, other, f)
			}
			seen[f] = c.Name
		}
		if got := h.redis(c.Name, "GET k"); got != "$1 v" {
			t.Errorf("%s: k is %q", c.Name, got)
		}
		t.Logf("%s: %v, %d MiB of its own", c.Name, c.StartedNs.Round(time.Millisecond), c.PrivateBytes>>20)
		if c.PrivateBytes == 0 || c.PrivateBytes > 64<<20 {
			t.Errorf("%s has %d MiB of its own", c.Name, c.PrivateBytes>>20)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(testenv.TestStore(), "snapshots", "*", "*")); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

func fileExists(f string) bool { _, err := os.Stat(f); return err == nil }

func TestADamagedSnapshotIsRefused(t *testing.T) {
	h := newHost(t)
	tag := filepath.Base(h.root)
	t.Cleanup(func() { h.hvctl("snapshot", "rm", tag) })
	h.ok("run", "-d", "--name", "web", "--kernel", fast, "--network", "none", "debian:bookworm", "sleep", "1000")
	h.ok("snapshot", "create", "web", "--tag", tag)
	file := filepath.Join(testenv.TestStore(), "snapshots", tag, "snapshot")
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flip := func(at int64) {
		t.Helper()
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{b[0] ^ 1}, at); err != nil {
			t.Fatal(err)
		}
	}
	flip(st.Size() - 5000) // in the tables and sections
	r := h.hvctl("restore", tag, "--name", "copy")
	if r.code == 0 || !strings.Contains(r.err, "corrupt") {
		t.Errorf("damaged state: exit %d, %s", r.code, r.err)
	}
	flip(st.Size() - 5000)
	at, err := f.Seek(20<<20, unix.SEEK_DATA)
	if err != nil {
		t.Fatal(err)
	}
	flip(at + 100) // in memory: found by verify and --copy
	for _, args := range [][]string{{"snapshot", "verify", tag}, {"restore", tag, "--copy", "--name", "copy"}} {
		if r := h.hvctl(args...); r.code == 0 || !strings.Contains(r.err, "corrupt") {
			t.Errorf("%q of damaged memory: exit %d, %s", args, r.code, r.err)
		}
	}
	if got := h.inspect("web", "{{.State.Status}}"); got != "running" {
		t.Errorf("the original is %s", got)
	}
	if r := h.hvctl("ps", "-a", "-q"); strings.Count(r.out, "\n") != 1 {
		t.Errorf("left behind: %q", r.out)
	}
}

// Differences over differences: restored with what is below them, and merged.
func TestDifferencesAreRestoredAndMerged(t *testing.T) {
	h := newHost(t)
	tag := filepath.Base(h.root)
	one, two, three, whole := tag+".1", tag+".2", tag+".3", tag+".whole"
	t.Cleanup(func() {
		for _, n := range []string{whole, three, two, one} {
			h.hvctl("snapshot", "rm", n)
		}
	})
	h.ok("run", "-d", "--name", "web", "--kernel", fast, "--network", "none", "debian:bookworm", "sleep", "1000")
	if r := h.hvctl("snapshot", "create", "web", "--tag", two, "--diff"); r.code == 0 || !strings.Contains(r.err, "no snapshot yet") {
		t.Errorf("a difference from nothing: exit %d, %s", r.code, r.err)
	}
	stored := map[string]uint64{}
	for i, name := range []string{one, two, three} {
		h.ok("exec", "web", "sh", "-c", fmt.Sprintf("echo %d >>/tmp/f", i))
		args := []string{"snapshot", "create", "web", "--tag", name, "--json"}
		if i > 0 {
			args = append(args, "--diff")
		}
		var r struct{ MemoryBytes uint64 }
		if err := json.Unmarshal([]byte(h.ok(args...)), &r); err != nil {
			t.Fatal(err)
		}
		stored[name] = r.MemoryBytes
	}
	t.Logf("stored %v", stored)
	if stored[three] > stored[one]/2 {
		t.Errorf("a difference stores %d bytes, the whole %d", stored[three], stored[one])
	}
	h.ok("snapshot", "verify", three)
	if r := h.hvctl("snapshot", "rm", one); r.code == 0 || !strings.Contains(r.err, two) {
		t.Errorf("removing what others need: exit %d, %s", r.code, r.err)
	}
	h.ok("snapshot", "merge", three, "--tag", whole)
	h.ok("rm", "-f", "web")
	h.ok("restore", three, "--name", "c3")
	h.ok("restore", two, "--name", "c2")
	h.ok("snapshot", "rm", three)
	h.ok("snapshot", "rm", two)
	h.ok("snapshot", "rm", one)
	h.ok("restore", whole, "--name", "cw") // mapped
	for name, want := range map[string]string{"c2": "0 1", "c3": "0 1 2", "cw": "0 1 2"} {
		if got := strings.Join(strings.Fields(h.ok("exec", name, "cat", "/tmp/f")), " "); got != want {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
	h.ok("rm", "-f", "c2", "c3", "cw")
}
