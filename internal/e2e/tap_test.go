package e2e

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// A tap that the administrator has made is the guest's interface, with two queues;
// and an instance on the bridge has the MTU and the limits it was given, and a cable
// that can be pulled.
func TestLinksAsAskedFor(t *testing.T) {
	h := newHostOf(t, vm)
	const tap = "e2etap0"
	script := fmt.Sprintf("ip tuntap add dev %s mode tap multi_queue && ip addr add 203.0.113.1/24 dev %[1]s && ip link set %[1]s mtu 1400 up", tap)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "tuntap", "del", "dev", tap, "mode", "tap", "multi_queue").CombinedOutput(); err != nil {
			t.Errorf("the tap: %v: %s", err, out)
		}
	})
	const see = "cd /sys/class/net/eth0; cat mtu; ls queues | wc -l; cat /proc/net/route | wc -l; exec 3<>/dev/tcp/203.0.113.1/7777; echo hello >&3; cat <&3"
	ln, err := net.Listen("tcp", "203.0.113.1:7777")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		b := make([]byte, 6)
		if _, err := io.ReadFull(c, b); err == nil {
			fmt.Fprintf(c, "%s said %s", c.RemoteAddr(), b)
		}
	}()
	out := h.ok(h.run("--rm", "--cpus", "2", "--network", "tap:"+tap+",address=203.0.113.9/24,gateway=203.0.113.1,queues=2", "debian:bookworm", "bash", "-c", see)...)
	if f := strings.Fields(out); len(f) != 6 || f[0] != "1400" || f[1] != "4" || !strings.HasPrefix(f[3], "203.0.113.9:") || f[5] != "hello" {
		t.Errorf("the guest saw %q", out)
	}
	if r := h.hvctl(h.run("--rm", "--network", "tap:moon", "debian:bookworm", "true")...); r.code != 125 || !strings.Contains(r.err, "ip tuntap add") {
		t.Errorf("no such tap: %+v", r)
	}

	h.ok(h.run("-d", "--name", "slow", "--network", "bridge:mtu=1300,rx=1M,tx=512K,vhost=on", "debian:bookworm", "sleep", "1000")...)
	if out := h.ok("exec", "slow", "cat", "/sys/class/net/eth0/mtu"); out != "1300\n" {
		t.Errorf("MTU %q", out)
	}
	link := strings.TrimSpace(h.ok("inspect", "--format", "{{.Inspect.interface}}", "slow"))
	for _, c := range []struct{ args, want string }{
		{"qdisc show dev " + link + " root", "tbf"},
		{"filter show dev " + link + " parent ffff:", "police"},
	} {
		if out, err := exec.Command("tc", strings.Fields(c.args)...).CombinedOutput(); err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("tc %s: %v: %s", c.args, err, out)
		}
	}
	carrier := func(want string) {
		t.Helper()
		eventually(t, "the guest's carrier is "+want, func() bool { return h.ok("exec", "slow", "cat", "/sys/class/net/eth0/carrier") == want+"\n" })
	}
	h.ok("update", "--link", "down", "slow")
	carrier("0")
	h.ok("update", "--link", "up", "slow")
	carrier("1")
	// Nobody in the VM's process reads a tap that the kernel serves.
	if out, err := exec.Command("ip", "link", "del", link).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	carrier("0")
	if r := h.hvctl("update", "--link", "up", "slow"); r.code == 0 || !strings.Contains(r.err, "is gone") {
		t.Errorf("plugged into nothing: %+v", r)
	}
	h.ok("rm", "-f", "slow")
}
