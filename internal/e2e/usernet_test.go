package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// onLoopback gives the host one more address while the test runs.
func onLoopback(t *testing.T, addr string) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(addr + "/32")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(lo, a); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.AddrDel(lo, a); err != nil {
			t.Error(err)
		}
	})
}

// serveHost is a web server of the host's on every address; it says how many
// bytes it got, and sends as many.
func serveHost(t *testing.T) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("Got", fmt.Sprint(n))
		_, _ = w.Write(bytes.Repeat([]byte("x"), int(n)))
	})}
	t.Cleanup(func() { s.Close() })
	go func() { _ = s.Serve(ln) }()
	return ln.Addr().(*net.TCPAddr).Port
}

// client asks the host's web server by several addresses. It and servers are in
// Perl, which an emulated guest starts in a tenth of Python's time.
const client = `
use Socket;
$| = 1;
my ($port, $other) = @ARGV;
sub call {
    my ($host, $size) = @_;
    socket(my $c, PF_INET, SOCK_STREAM, 0) or die $!;
    connect($c, sockaddr_in($port, inet_aton($host))) or return;
    print $c "POST / HTTP/1.0\r\nContent-Length: $size\r\n\r\n", "y" x $size;
    $c->flush;
    local $/;
    my ($head, $body) = split /\r\n\r\n/, <$c>, 2;
    my ($got) = $head =~ /^Got: (\d+)/mi;
    return "$got " . length $body;
}
print "small ", call("10.0.2.2", 10), "\n";
print "large ", call("10.0.2.2", 2000000), "\n";
for my $host ($other, "127.0.0.1", "169.254.169.254", "0.0.0.0") {
    my $got = call($host, 1);
    print defined $got ? "REACHED $host $got\n" : "refused $host\n";
}
open(my $f, "<", "/etc/resolv.conf") or die $!;
print <$f>;
`

// TestUserNetwork: an instance without an address on the host reaches the host by
// the documented address and by no other.
func TestUserNetwork(t *testing.T) { onBoth(t, userNetwork) }

func userNetwork(t *testing.T, h *host) {
	onLoopback(t, "192.0.2.77")
	port := fmt.Sprint(serveHost(t))
	out := h.ok(h.run("--rm", "--network", "user:host=on", "--dns", "192.0.2.53", "debian:bookworm", "perl", "-MIO::Handle", "-e", client, port, "192.0.2.77")...)
	want := `small 10 10
large 2000000 2000000
refused 192.0.2.77
refused 127.0.0.1
refused 169.254.169.254
refused 0.0.0.0
nameserver 192.0.2.53
`
	if out != want {
		t.Errorf("got:\n%s\nwant:\n%s", out, want)
	}
	r := h.hvctl(h.run("--rm", "--network", "user", "debian:bookworm", "bash", "-c", "exec 3<>/dev/tcp/10.0.2.2/"+port)...)
	if r.code == 0 || !strings.Contains(r.err, "refused") {
		t.Errorf("the host is reached without host=on: %+v", r)
	}
}

// servers answer on port 53 over UDP with what they got, and on port 80 over TCP
// with how much; each with the sender's address before it.
const servers = `
use Socket;
$| = 1;
my ($u, $s);
socket($u, PF_INET, SOCK_DGRAM, 0) && bind($u, sockaddr_in(53, INADDR_ANY)) or die $!;
socket($s, PF_INET, SOCK_STREAM, 0) && bind($s, sockaddr_in(80, INADDR_ANY)) && listen($s, 8) or die $!;
sub name { inet_ntoa((sockaddr_in($_[0]))[1]) }
if (!fork) {
    while (my $from = recv($u, my $d, 65535, 0)) { send($u, name($from) . " $d", 0, $from) }
    exit;
}
print "ready\n";
while (my $from = accept(my $c, $s)) {
    my $n = 0;
    while (my $got = sysread($c, my $d, 65536)) { $n += $got }
    syswrite($c, name($from) . " $n");
    close($c);
}
`

// TestUserNetworkPublishes: ports of both protocols, until the network's process
// is killed; the instance outlives it and says what happened.
func TestUserNetworkPublishes(t *testing.T) { onBoth(t, userNetworkPublishes) }

func userNetworkPublishes(t *testing.T, h *host) {
	h.ok(h.run("-d", "--name", "srv", "--network", "user", "-p", "127.0.0.1::80", "-p", "127.0.0.1::53/udp", "debian:bookworm", "perl", "-e", servers)...)
	eventually(t, "the servers are up", func() bool { return strings.Contains(h.ok("logs", "srv"), "ready") })
	published := func(i int) string {
		return "127.0.0.1:" + strings.TrimSpace(h.ok("inspect", "--format", fmt.Sprintf("{{(index .State.Ports %d).HostPort}}", i), "srv"))
	}
	tcp, udp := published(0), published(1)
	c, err := net.Dial("tcp", tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = c.Write(make([]byte, 300000))
	_ = c.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "10.0.2.2 300000" {
		t.Errorf("TCP: %q, %v", got, err)
	}
	u, err := net.Dial("udp", udp)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	eventually(t, "the UDP server answers", func() bool {
		_ = u.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = u.Write([]byte("hi"))
		b := make([]byte, 100)
		n, err := u.Read(b)
		return err == nil && string(b[:n]) == "10.0.2.2 hi"
	})
	if r := h.hvctl(h.run("--rm", "--network", "user", "-p", tcp+":80", "debian:bookworm", "true")...); r.code != 125 || !strings.Contains(r.err, "is taken by hvctl-net") {
		t.Errorf("a port that is taken: %+v", r)
	}

	pid, err := strconv.Atoi(strings.TrimSpace(h.ok("inspect", "--format", "{{.Inspect.networkPid}}", "srv")))
	if err != nil {
		t.Fatal(err)
	}
	checkConfined(t, pid)
	checkLimited(t, h, pid)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "inspect tells of the loss", func() bool {
		return strings.Contains(h.ok("inspect", "--format", "{{.Inspect.networkLost}}", "srv"), "killed")
	})
	ln, err := net.Listen("tcp", tcp)
	if err != nil {
		t.Errorf("the port of a network that is gone: %v", err)
	} else {
		ln.Close()
	}
	if out := h.ok("exec", "srv", "echo", "alive"); out != "alive\n" {
		t.Errorf("after the loss: %q", out)
	}
	h.ok("rm", "-f", "srv")
}

// checkLimited looks at the cgroup of the process: a VM's, or one beside the
// container's with limits of its own, which follow the container's.
func checkLimited(t *testing.T, h *host, pid int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(h.ok("inspect", "--format", "{{.Config.ID}}", "srv"))
	want := "/hvctl/" + h.kind.name + "-" + id
	if h.kind.name == ctr.name {
		want += "-net"
	}
	for line := range strings.Lines(string(b)) { // 5:memory:/hvctl/...
		if strings.Contains(line, ":memory:") && !strings.HasSuffix(strings.TrimSpace(line), ":"+want) || strings.HasPrefix(line, "0::") && h.v2() && line != "0::"+want+"\n" {
			t.Errorf("the network's process is in %q, want %s", line, want)
		}
	}
	if h.kind.name != ctr.name {
		return
	}
	h.ok("update", "--cpus", "0.5", "srv")
	for file, want := range map[string]string{"memory.max": "402653184", "pids.max": "256", "cpu.max": "50000 100000"} {
		if b, err := os.ReadFile("/sys/fs/cgroup" + "/hvctl/container-" + id + "-net/" + file); h.v2() && (err != nil || strings.TrimSpace(string(b)) != want) {
			t.Errorf("%s is %q, want %q (%v)", file, b, want, err)
		}
	}
}

// v2 says that the machine has cgroup v2 alone.
func (*host) v2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// checkConfined looks at what the process that parses frames could do.
func checkConfined(t *testing.T, pid int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "NoNewPrivs:\t1", "CapPrm:\t0000000000000000", "Seccomp:\t2"} {
		if !strings.Contains(string(b), want+"\n") {
			t.Errorf("the network's process has not %q:\n%s", want, b)
		}
	}
}

// TestUserNetworkGoesWithItsOwner: the network of an owner that was killed ends by
// itself; newHost looks for it.
func TestUserNetworkGoesWithItsOwner(t *testing.T) {
	onBoth(t, func(t *testing.T, h *host) {
		h.ok(h.run("-d", "--name", "x", "--network", "user", "-p", "127.0.0.1::80", "debian:bookworm", "sleep", "1000")...)
		h.kill(t, "x")
	})
}

// TestUserNetworkOfACopy: a restored VM has a network process of its own, with the
// same addresses, beside the original's.
func TestUserNetworkOfACopy(t *testing.T) {
	h := newHost(t)
	tag := filepath.Base(h.root)
	t.Cleanup(func() { h.hvctl("snapshot", "rm", tag) })
	h.ok(h.run("-d", "--name", "one", "--network", "user", "-p", "127.0.0.1::6379", "redis")...)
	if got := h.redis("one", "SET k v"); got != "+OK" {
		t.Fatal(got)
	}
	h.ok("snapshot", "create", "one", "--tag", tag)
	h.ok("restore", tag, "--name", "two")
	if got := h.redis("one", "SET k other"); got != "+OK" {
		t.Error(got)
	}
	if got := h.redis("two", "GET k"); got != "$1 v" {
		t.Errorf("the copy answers %q", got)
	}
	if a, b := h.inspect("one", "{{.Inspect.networkPid}}"), h.inspect("two", "{{.Inspect.networkPid}}"); a == b {
		t.Errorf("both are served by process %s", a)
	}
	h.ok("rm", "-f", "one", "two")
}

// TestUserNetworkResolvesNames: the host's name server, on its loopback where the
// instance does not get otherwise, answers the instance.
func TestUserNetworkResolvesNames(t *testing.T) { onBoth(t, userNetworkResolves) }

func userNetworkResolves(t *testing.T, h *host) {
	serveNames(t, "127.0.0.1:53")
	const conf = "/etc/resolv.conf"
	before, err := os.ReadFile(conf)
	if err == nil {
		err = os.WriteFile(conf, []byte("nameserver 127.0.0.1\n"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(conf, before, 0o644); err != nil {
			t.Error(err)
		}
	})
	out := h.ok(h.run("--rm", "--network", "user", "debian:bookworm", "sh", "-c", "cat /etc/resolv.conf; getent ahostsv4 box.test | head -1")...)
	if f := strings.Fields(out); len(f) < 3 || f[1] != "10.0.2.3" || f[2] != "192.0.2.9" {
		t.Errorf("got %q", out)
	}
}

// serveNames is a name server for which every name has the address 192.0.2.9.
func serveNames(t *testing.T, at string) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60}, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 9}},
				}}
			}
			if b, err := m.Pack(); err == nil {
				_, _ = pc.WriteTo(b, from)
			}
		}
	}()
}
