package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// port returns the host port published for an instance's only port.
func (h *host) port(name string) int {
	h.t.Helper()
	var n int
	if _, err := fmt.Sscan(h.ok("inspect", "--format", "{{(index .State.Ports 0).HostPort}}", name), &n); err != nil {
		h.t.Fatal(err)
	}
	return n
}

func TestRedisThroughAPublishedPort(t *testing.T) { onBoth(t, redis) }

func redis(t *testing.T, h *host) {
	h.ok(h.run("-d", "--name", "redis", "-p", "127.0.0.1::6379", "redis")...)
	addr := fmt.Sprintf("127.0.0.1:%d", h.port("redis"))
	var reply string
	eventually(t, "redis answers PING", func() bool {
		c, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(c, "SET k v\r\nGET k\r\n"); err != nil {
			return false
		}
		r := bufio.NewReader(c)
		for range 3 {
			line, err := r.ReadString('\n')
			if err != nil {
				return false
			}
			reply += line
		}
		return true
	})
	if !strings.HasSuffix(reply, "+OK\r\n$1\r\nv\r\n") {
		t.Errorf("redis answered %q", reply)
	}
	if path, err := exec.LookPath("redis-benchmark"); err == nil {
		_, p, _ := net.SplitHostPort(addr)
		out, err := exec.Command(path, "-h", "127.0.0.1", "-p", p, "-n", "500", "-c", "5", "-q", "-t", "set,get").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "requests per second") {
			t.Errorf("redis-benchmark: %v\n%s", err, out)
		}
	} else {
		t.Errorf("redis-benchmark is missing: scripts/test installs redis-tools")
	}
	h.ok("stop", "redis")
	h.ok("rm", "redis")
}

func TestNginxServesAPage(t *testing.T) { onBoth(t, nginx) }

func nginx(t *testing.T, h *host) {
	h.ok(h.run("-d", "--name", "web", "-p", "127.0.0.1::80", "nginx")...)
	url := fmt.Sprintf("http://127.0.0.1:%d/", h.port("web"))
	var body []byte
	eventually(t, "nginx answers", func() bool {
		r, err := (&http.Client{Timeout: 5 * time.Second}).Get(url)
		if err != nil {
			return false
		}
		defer r.Body.Close()
		body, err = io.ReadAll(r.Body)
		return err == nil
	})
	if !strings.Contains(string(body), "nginx") {
		t.Errorf("page %q", body)
	}
	eventually(t, "the access log comes out", func() bool { return strings.Contains(h.ok("logs", "web"), "GET / HTTP") })
	h.ok("rm", "-f", "web")
}

func TestPythonProgram(t *testing.T) { onBoth(t, python) }

func python(t *testing.T, h *host) {
	out := h.ok(h.run("--rm", "--network", "none", "-e", "N=20", "python", "python3", "-c",
		"import os, sys; print(sum(i*i for i in range(int(os.environ['N'])))); print(os.getpid(), file=sys.stderr)")...)
	if out != "2470\n" {
		t.Errorf("python printed %q", out)
	}
}

// call is a Perl program that connects to servers at an address, as soon as they
// are there, and prints what they say.
const call = `
use Socket;
do { socket(C, PF_INET, SOCK_STREAM, 0) } until connect(C, sockaddr_in(80, inet_aton($ARGV[0]))) or !select(undef, undef, undef, .1) and ++$n > 300;
shutdown(C, 1);
print <C>;
`

// TestInstancesReachEachOther: two VMs, and a VM and a container in either
// role, on one bridge.
func TestInstancesReachEachOther(t *testing.T) {
	h := newHost(t)
	address := func(name string) string { return strings.TrimSpace(h.ok("inspect", "--format", "{{.State.IP}}", name)) }
	for _, k := range bothKinds {
		side := &host{t: t, root: h.root, bin: h.bin, kind: k}
		side.ok(side.run("-d", "--name", k.name, "debian:bookworm", "perl", "-e", servers)...)
	}
	other := &host{t: t, root: h.root, bin: h.bin, kind: vm}
	if out := other.ok(other.run("--rm", "debian:bookworm", "perl", "-e", call, address(vm.name))...); !strings.HasSuffix(out, " 0") {
		t.Errorf("a VM hears %q of a VM", out)
	}
	for from, to := range map[string]string{vm.name: ctr.name, ctr.name: vm.name} {
		if out := h.ok("exec", from, "perl", "-e", call, address(to)); out != address(from)+" 0" {
			t.Errorf("a %s hears %q of a %s", from, out, to)
		}
	}
}
