package e2e

import (
	"bufio"
	"context"
	"crypto/md5"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

// receive waits for a VM as an instance called name; done returns how it went.
func (h *host) receive(name, at string, more ...string) (done func() string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	c := h.command(ctx, append([]string{"migrate", "receive", "--listen", at, "--name", name}, more...)...)
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	if path, ok := strings.CutPrefix(at, "unix:"); ok {
		eventually(h.t, "somebody listens at "+path, func() bool {
			select {
			case err := <-ended:
				h.t.Fatalf("receive ended: %v\n%s", err, out.String())
			default:
			}
			return fileExists(path)
		})
	} else {
		eventually(h.t, "somebody listens at "+at, func() bool {
			b, _ := os.ReadFile("/proc/net/tcp")
			return strings.Contains(string(b), fmt.Sprintf(":%04X 00000000:0000 0A", 7443))
		})
	}
	return func() string {
		h.t.Helper()
		defer cancel()
		if err := <-ended; err != nil {
			h.t.Fatalf("receive: %v\n%s\n%s", err, out.String(), h.consoles())
		}
		return strings.TrimSpace(out.String())
	}
}

// pull fetches the VM from, of the host at, and returns the source's report and the new ID.
func (h *host) pull(at *host, from, name string, how ...string) (report, id string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	allow := strings.TrimSpace(h.ok("migrate", "identity"))
	c := at.command(ctx, append([]string{"migrate", "offer", from, "--listen", "127.0.0.1:7444", "--allow", allow, "--json"}, how...)...)
	var out strings.Builder
	c.Stdout = &out
	said, err := c.StderrPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	lines.Scan()
	words := strings.Fields(lines.Text()) // the command to run there
	if len(words) < 3 || words[0] != "hvctl" {
		h.t.Fatalf("the offer says %q", lines.Text())
	}
	wrong := append(words[1:len(words)-1:len(words)-1], "guessed", "--name", name)
	if r := h.hvctl(wrong...); r.code == 0 || !strings.Contains(r.err, "token") {
		h.t.Errorf("pulled with a wrong token: %d, %s", r.code, r.err)
	}
	id = strings.TrimSpace(h.ok(append(words[1:], "--name", name)...))
	var more strings.Builder
	for lines.Scan() {
		more.WriteString(lines.Text() + "\n")
	}
	if err := c.Wait(); err != nil {
		h.t.Fatalf("offer: %v\n%s", err, more.String())
	}
	return out.String(), id
}

// Its network is the kernel's (vhost) on both sides, and the owner's in between.
func TestARedisUnderLoadMovesBackAndForth(t *testing.T) {
	h := newHost(t)
	h.ok("run", "-d", "--name", "vm0", "--kernel", fast, "--network", "bridge:vhost=on", "-p", "127.0.0.1::6379", "redis")
	if got := h.redis("vm0", "SET k v"); got != "+OK" {
		t.Fatal(got)
	}
	// A client in the guest that never reconnects: it ends with its connection.
	h.ok("exec", "-d", "vm0", "sh", "-c", "yes 'INCR n' | redis-cli >/tmp/out 2>&1; echo $? >/tmp/ended")
	count := func(name string) int {
		t.Helper()
		out := strings.TrimSpace(h.ok("exec", name, "redis-cli", "GET", "n"))
		n, err := strconv.Atoi(out)
		if err != nil && out != "" {
			t.Fatal(err)
		}
		return n
	}
	eventually(t, "the guest's client counts", func() bool { return count("vm0") > 0 })
	last := 0
	for hop := range 3 {
		from, to := fmt.Sprint("vm", hop), fmt.Sprint("vm", hop+1)
		at, allow := "unix:"+filepath.Join(h.root, ".sock"+to), []string(nil)
		if hop == 1 { // as between hosts
			at, allow = "127.0.0.1:7443", []string{"--allow", strings.TrimSpace(h.ok("migrate", "identity"))}
		}
		before := count(from)
		if before < last {
			t.Fatalf("hop %d: counted to %d after %d", hop, before, last)
		}
		done := h.receive(to, at, allow...)
		how := []string{"--on-timeout", "force", "--downtime", "300ms"}
		if hop == 1 { // and too fast for the link
			how = []string{"--on-timeout", "postcopy", "--downtime", "1ms", "--rate", "16M"}
		}
		out := h.ok(append(append([]string{"migrate", "send", from, "--to", at, "--json"}, how...), allow...)...)
		id := done()
		var report struct {
			Outcome  string
			Rounds   []any
			Blackout struct {
				Total time.Duration `json:"total_ns"`
			}
			PostCopy *struct {
				State   string
				Missing uint64 `json:"missing_pages"`
				Faulted uint64 `json:"faulted_pages"`
				Arrival struct {
					Faults uint64
					P50    time.Duration `json:"p50_ns"`
					P99    time.Duration `json:"p99_ns"`
					Max    time.Duration `json:"max_ns"`
				}
			}
			GuestGap time.Duration `json:"guest_gap_ns"`
		}
		if err := json.Unmarshal([]byte(out), &report); err != nil || report.Outcome != "handed" {
			t.Fatalf("report: %v\n%s", err, out)
		}
		t.Logf("hop %d: %d rounds, blackout %v, %v by the guest's clock, %+v", hop, len(report.Rounds), report.Blackout.Total, report.GuestGap, report.PostCopy)
		if p := report.PostCopy; (hop == 1) != (p != nil) || p != nil && (p.State != "drained" || p.Arrival.Faults == 0) {
			t.Errorf("hop %d: %+v", hop, p)
		}
		if report.GuestGap < report.Blackout.Total/2 {
			t.Errorf("hop %d: the guest missed %v of %v", hop, report.GuestGap, report.Blackout.Total)
		}
		if r := h.hvctl("wait", from); strings.TrimSpace(r.out) != "0" {
			t.Errorf("the source ended with %q, %s", r.out, r.err)
		}
		if got := h.inspect(to, "{{.Config.ID}} {{.Config.Image.Ref}} {{.State.Status}}"); got != id+" docker.io/library/redis:latest running" {
			t.Errorf("it arrived as %q", got)
		}
		last = count(to)
		if last < before {
			t.Errorf("hop %d: counted to %d after %d", hop, last, before)
		}
		eventually(t, "the guest's client goes on", func() bool { return count(to) > last })
		if got := h.redis(to, "GET k"); got != "$1 v" {
			t.Errorf("hop %d: k is %q", hop, got)
		}
		if r := h.hvctl("exec", to, "cat", "/tmp/ended"); r.code == 0 {
			t.Errorf("hop %d: the client in the guest ended with %s", hop, r.out)
		}
		if got := h.ok("migrate", "inspect", from); !strings.Contains(got, "handed") || !strings.Contains(got, "pre-copied") {
			t.Errorf("what is on record at the source:\n%s", got)
		}
		h.ok("rm", from)
	}
	if got := h.ok("migrate", "inspect", "vm3"); !strings.Contains(got, "owner") {
		t.Errorf("what is on record at the destination:\n%s", got)
	}
	h.ok("stop", "vm3")
}

// A disk goes along while the guest writes to it, and what was synced last before
// the guest stood still is there.
func TestADiskGoesAlongWithItsGuest(t *testing.T) {
	h := newHost(t)
	here, there := t.TempDir(), t.TempDir()
	disk := filepath.Join(h.root, ".disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 16<<20+512); err != nil {
		t.Fatal(err)
	}
	h.ok("run", "-d", "--name", "from", "--kernel", fast, "--network", "none", "--disk", "path="+disk, "-v", here+":/data", "debian:bookworm", "sleep", "1000")
	// What it shares is at the destination already, but for what is opened meanwhile.
	h.ok("exec", "-d", "from", "sh", "-c", "exec 3>>/data/log; while :; do echo line >&3; sleep 0.2; done")
	h.ok("exec", "from", "sh", "-c", "dd if=/dev/urandom of=/dev/vdb bs=1M seek=8 count=2 conv=fsync 2>/dev/null")
	// The log: a line per sector, synced before its number is written down in memory.
	h.ok("exec", "-d", "from", "sh", "-c", "i=0; while :; do printf '%0511d\\n' $i | dd of=/dev/vdb bs=512 seek=$i conv=fsync,notrunc 2>/dev/null; echo $i >/tmp/n; i=$((i+1)); done")
	synced := func(name string) int {
		t.Helper()
		n, err := strconv.Atoi(strings.TrimSpace(h.hvctl("exec", name, "cat", "/tmp/n").out))
		if err != nil {
			return -1 // not there yet, or just being written
		}
		return n
	}
	eventually(t, "the guest writes", func() bool { return synced("from") > 2 })
	at := "unix:" + filepath.Join(h.root, ".sock")
	done := h.receive("to", at, "--share", there)
	bind := "dir-rw:/data=rebind:" + there
	for _, tt := range [][2]string{{"dir-rw:/data=refuse", "refuse"}, {"dir-rw:/data=rebind:" + here, "not lent"}, {bind, "lacks"}} {
		if r := h.hvctl("migrate", "send", "from", "--to", at, "--bind", tt[0]); r.code == 0 || !strings.Contains(r.err, tt[1]) {
			t.Errorf("--bind %s: exit %d, %s", tt[0], r.code, r.err)
		}
	}
	if err := os.WriteFile(filepath.Join(there, "log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	svg := filepath.Join(h.root, ".timeline.svg")
	h.ok("migrate", "send", "from", "--to", at, "--on-timeout", "force", "--downtime", "300ms", "--compress", "zstd", "--timeline", svg, "--bind", bind)
	done()
	eventually(t, "an open file is written on to there", func() bool {
		b, err := os.ReadFile(filepath.Join(there, "log"))
		return err == nil && len(b) > 0
	})
	h.ok("exec", "to", "sh", "-c", "echo new > /data/new")
	if b, err := os.ReadFile(filepath.Join(there, "new")); err != nil || string(b) != "new\n" || fileExists(filepath.Join(here, "new")) {
		t.Errorf("a new file: %q, %v", b, err)
	}
	if b, err := os.ReadFile(svg); err != nil || !strings.Contains(string(b), "blackout") {
		t.Errorf("the timeline: %v, %d bytes", err, len(b))
	}
	var n int
	eventually(t, "a line is on record", func() bool { n = synced("to"); return n >= 0 })
	eventually(t, "it writes on", func() bool { return synced("to") > n })
	// Line i is in sector i, for all that were synced.
	check := fmt.Sprintf("head -c $((512*%d)) /dev/vdb | awk '$1+0 != NR-1 {print \"line\", NR-1, \"is\", $1; exit 1}'", n+1)
	if r := h.hvctl("exec", "to", "sh", "-c", check); r.code != 0 {
		t.Errorf("of %d synced lines: %s%s", n+1, r.out, r.err)
	}
	if got := h.inspect("to", "{{(index .Config.VM.Disks 0).Path}}"); got == disk || !strings.HasSuffix(got, "/disk0") {
		t.Errorf("the disk is %q", got)
	}
	if r := h.hvctl("exec", "to", "sh", "-c", "dd if=/dev/vdb bs=1M skip=8 count=2 2>/dev/null | md5sum"); r.code != 0 {
		t.Error(r.err)
	} else if b, err := os.ReadFile(disk); err != nil || strings.Fields(r.out)[0] != fmt.Sprintf("%x", md5.Sum(b[8<<20:10<<20])) {
		t.Errorf("what was written before differs: %s", r.out)
	}
	h.ok("rm", "-f", "to", "from")
}

// What a plan refuses, send refuses; a word on the resource helps.
func TestAMigrationIsPlanned(t *testing.T) {
	h := newHost(t)
	h.store = filepath.Join(h.root, ".store")
	tree := filepath.Join(h.root, ".tree")
	busyboxTree(t, tree)
	h.ok("import", tree, "busybox")
	h.ok("kernel", "import", "--name", fast, filepath.Join(testenv.TestKernels(), fast, "vmlinuz"))
	h.ok("run", "-d", "--name", "web", "--kernel", fast, "-p", "127.0.0.1:18087:80", "busybox", "sleep", "1000")
	at := "unix:" + filepath.Join(h.root, ".sock")
	done := h.receive("to", at)
	const port = "port:tcp/127.0.0.1:18087"
	if r := h.hvctl("migrate", "plan", "web", "--to", at); r.code != 125 || !strings.Contains(r.out, "taken at the destination") || !strings.Contains(r.err, "1 of ") {
		t.Errorf("the source has the port: exit %d\n%s%s", r.code, r.out, r.err)
	}
	if r := h.hvctl("migrate", "send", "web", "--to", at); r.code == 0 || !strings.Contains(r.err, "taken at the destination") {
		t.Errorf("sent all the same: exit %d, %s", r.code, r.err)
	}
	h.ok("exec", "web", "true")
	if r := h.hvctl("migrate", "plan", "web", "--to", at, "--bind", "port=x"); r.code != 125 {
		t.Errorf("a bind that is none: exit %d, %s", r.code, r.err)
	}
	out := h.ok("migrate", "plan", "web", "--to", at, "--bind", port+"=drop", "--json")
	var p struct {
		Rows []struct{ Kind, Name, Action string }
	}
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	actions := map[string]string{}
	for _, r := range p.Rows {
		actions[r.Kind] = r.Action
	}
	for kind, want := range map[string]string{"ram": "move", "cpu": "rebind", "layers": "rebind", "network": "rebind", "port": "drop", "vsock": "rebind"} {
		if actions[kind] != want {
			t.Errorf("%s: %q, want %q", kind, actions[kind], want)
		}
	}
	h.ok("migrate", "send", "web", "--to", at, "--bind", port+"=drop", "--on-timeout", "force", "--downtime", "300ms")
	done()
	if got := h.inspect("to", "{{len .Config.Net.Publish}}"); got != "0" {
		t.Errorf("%s ports are published", got)
	}

	// From there a host fetches it that has no images: the guest's comes with it.
	other := h.in(t)
	other.store = filepath.Join(h.root, ".other")
	out, id := other.pull(h, "to", "third", "--on-timeout", "force", "--downtime", "300ms")
	var report struct {
		Outcome string
		Image   uint64 `json:"image_bytes"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Outcome != "handed" || report.Image < 100<<10 {
		t.Errorf("%v: %q, %d bytes of image were carried", err, report.Outcome, report.Image)
	}
	if got := h.inspect("third", "{{.Config.ID}} {{.Config.Rootfs.ImagePath}}"); !strings.HasPrefix(got, id+" "+other.store) || !strings.HasSuffix(got, ".carried.erofs") {
		t.Errorf("%s with the root %q", id, got)
	}
	h.ok("exec", "third", "md5sum", "/bin/busybox")
	h.ok("rm", "-f", "third", "to", "web")
}

// A migration that takes long is looked at, and called off.
func TestAMigrationIsCancelled(t *testing.T) {
	h := newHost(t)
	h.ok("run", "-d", "--name", "web", "--kernel", fast, "--network", "none", "debian:bookworm", "sleep", "1000")
	if out := h.ok("migrate", "status", "web"); !strings.Contains(out, "no migration") {
		t.Errorf("before any: %s", out)
	}
	if r := h.hvctl("migrate", "cancel", "web"); r.code == 0 || !strings.Contains(r.err, "no migration") {
		t.Errorf("cancel without any: exit %d, %s", r.code, r.err)
	}
	at := "unix:" + filepath.Join(h.root, ".sock")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	r := h.command(ctx, "migrate", "receive", "--listen", at, "--name", "to")
	r.Cancel = func() error { return r.Process.Signal(os.Interrupt) }
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stop(); _ = r.Wait() }()
	eventually(t, "somebody listens", func() bool { return fileExists(strings.TrimPrefix(at, "unix:")) })
	sent := make(chan result, 1)
	go func() { sent <- h.hvctl("migrate", "send", "web", "--to", at, "--rate", "1M") }() // minutes
	eventually(t, "it is under way", func() bool { return strings.Contains(h.ok("migrate", "status", "--json", "web"), `"going"`) })
	h.ok("exec", "web", "true")
	h.ok("migrate", "cancel", "web")
	if r := <-sent; r.code == 0 || !strings.Contains(r.err, "cancelled") {
		t.Errorf("send ended with %d, %s", r.code, r.err)
	}
	if out := h.ok("migrate", "status", "web"); !strings.Contains(out, "cancelled") || !strings.Contains(out, "outcome kept") {
		t.Errorf("afterwards: %s", out)
	}
	h.ok("exec", "web", "true")

	// Later it goes by post-copy, and the source is killed: what it had is lost, and
	// with it the guest, which stands still until it is killed.
	s := h.start("migrate", "send", "web", "--to", at, "--mode", "postcopy", "--rate", "1M")
	eventually(t, "the destination runs", func() bool { return h.inspect("to", "{{.State.Status}}") == "running" })
	h.signal(h.owner("web"), unix.SIGKILL)
	if code := s.wait(); code == 0 {
		t.Errorf("send by an owner that was killed: %s", s.text())
	}
	if got := h.inspect("to", "{{.Inspect.memoryFollows}}"); got != "true" {
		t.Errorf("the destination has all its memory: %q", got)
	}
	h.ok("kill", "to")
	h.ok("wait", "to")
}

func TestARefusedMigrationLeavesTheGuestWhereItIs(t *testing.T) {
	h := newHost(t)
	h.ok("run", "-d", "--name", "web", "--kernel", fast, "--network", "none", "debian:bookworm", "sleep", "1000")
	for _, tc := range []struct{ to, says string }{
		{"unix:" + filepath.Join(h.root, ".nobody"), "no such file"},
		{"127.0.0.1:7443", "--allow"},
		{"somewhere", "HOST:PORT"},
	} {
		if r := h.hvctl("migrate", "send", "web", "--to", tc.to); r.code == 0 || !strings.Contains(r.err, tc.says) {
			t.Errorf("to %s: exit %d, %s", tc.to, r.code, r.err)
		}
		if got := h.inspect("web", "{{.State.Status}}"); got != "running" {
			t.Errorf("after %s it is %s", tc.to, got)
		}
		h.ok("exec", "web", "true")
	}
	h.ok("pause", "web")
	if r := h.hvctl("migrate", "send", "web", "--to", "unix:/x"); r.code == 0 || !strings.Contains(r.err, "paused") {
		t.Errorf("of a paused VM: exit %d, %s", r.code, r.err)
	}
	// Whoever waits in vain can be told to stop.
	ctx, cancel := context.WithCancel(context.Background())
	c := h.command(ctx, "migrate", "receive", "--listen", "unix:"+filepath.Join(h.root, ".none"), "--name", "none")
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the receiver waits", func() bool { return strings.Contains(h.ok("ps", "-a"), "none") })
	cancel()
	if err := c.Wait(); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an interrupted receive ended with %v", err)
	}
	eventually(t, "its instance is gone", func() bool { return !strings.Contains(h.ok("ps", "-a"), "none") })
}
