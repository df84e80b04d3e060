package e2e

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/vishvananda/netlink"
)

// cniNetwork configures a network of Debian's plugins: a bridge with addresses
// of a file, and ports by iptables. It returns the directory of its leases.
func cniNetwork(t *testing.T, h *host) (conf, leases string) {
	t.Helper()
	testenv.Require(t, testenv.CNIPlugins)
	dir := t.TempDir()
	conf, leases = filepath.Join(dir, "net.d"), filepath.Join(dir, "leases", "lab")
	text, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "lab",
		"plugins": []any{
			map[string]any{
				"type": "bridge", "bridge": "cnilab0", "isGateway": true, "ipMasq": true,
				"ipam": map[string]any{
					"type": "host-local", "dataDir": filepath.Dir(leases),
					"ranges": [][]any{{map[string]string{"subnet": "10.201.0.0/24"}}},
					"routes": []any{map[string]string{"dst": "0.0.0.0/0"}},
				},
				"dns": map[string]any{"nameservers": []string{"192.0.2.53"}},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	})
	if err == nil {
		err = os.Mkdir(conf, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(conf, "lab.conflist"), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the bridge is the plugin's, which leaves it
		if l, err := netlink.LinkByName("cnilab0"); err == nil {
			if err := netlink.LinkDel(l); err != nil {
				t.Error(err)
			}
		}
		_ = exec.Command("sh", "-c", "for t in $(nft list tables ip | cut -d' ' -f3); do nft delete table ip $t; done; nft list tables ip6 | while read x f t; do nft delete table ip6 $t; done").Run()
	})
	return conf, leases
}

// leased lists the addresses that host-local has given out.
func leased(t *testing.T, dir string) (out []string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "10.201.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		out = append(out, filepath.Base(f))
	}
	return out
}

// portRules are iptables' rules for a port.
func portRules(t *testing.T, port string) string {
	t.Helper()
	out, err := exec.Command("iptables-save", "-t", "nat").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "dport "+port+" ") || strings.Contains(line, "dports "+port+" ") {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

// TestCNINetwork: an address, a route, a name server and a published port by
// plugins; CHECK; and nothing left, even of a killed owner's.
func TestCNINetwork(t *testing.T) { onBoth(t, cniNetworkOf) }

func cniNetworkOf(t *testing.T, h *host) {
	conf, leases := cniNetwork(t, h)
	const port = "18080"
	run := h.run("-d", "--name", "srv", "--network", "cni:lab", "--cni-conf", conf, "--ip", "10.201.0.50", "-p", port+":80", "debian:bookworm", "perl", "-e", servers)
	h.ok(run...)
	if got := leased(t, leases); len(got) != 1 || got[0] != "10.201.0.50" {
		t.Errorf("leases %v", got)
	}
	eventually(t, "the servers are up", func() bool { return strings.Contains(h.ok("logs", "srv"), "ready") })
	for _, addr := range []string{"10.201.0.50:80", "10.201.0.1:" + port} {
		c, err := net.DialTimeout("tcp", addr, 30*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = c.Write([]byte("hello"))
		_ = c.(*net.TCPConn).CloseWrite()
		if got, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(got), " 5") {
			t.Errorf("%s answers %q, %v", addr, got, err)
		}
		c.Close()
	}
	if out := h.ok("exec", "srv", "cat", "/etc/resolv.conf"); out != "nameserver 192.0.2.53\n" {
		t.Errorf("resolv.conf: %q", out)
	}
	if r := h.hvctl(h.run("--rm", "--network", "cni:lab", "--cni-conf", conf, "--ip", "10.201.0.50", "debian:bookworm", "true")...); r.code != 125 || !strings.Contains(r.err, "10.201.0.50") {
		t.Errorf("an address that is taken: %+v", r)
	}
	cniCheck(t, h, conf, leases)
	// A second one, a neighbour, goes as it should.
	out := h.ok(h.run("--rm", "--network", "cni:lab", "--cni-conf", conf, "debian:bookworm", "perl", "-e", call, "10.201.0.50")...)
	if !strings.HasSuffix(out, " 0") {
		t.Errorf("the neighbour: %q", out)
	}
	if got := leased(t, leases); len(got) != 1 {
		t.Errorf("after the neighbour: leases %v", got)
	}
	if portRules(t, port) == "" {
		t.Error("no rule for the port: the test looks in the wrong place")
	}
	h.kill(t, "srv")
	eventually(t, "the instance is known to be dead", func() bool {
		return strings.TrimSpace(h.ok("inspect", "--format", "{{.State.Status}}", "srv")) == "dead"
	})
	h.ok("rm", "-f", "srv")
	if got := leased(t, leases); len(got) != 0 {
		t.Errorf("leases left: %v", got)
	}
	if left := portRules(t, port); left != "" {
		t.Errorf("rules left:\n%s", left)
	}
	if left, _ := filepath.Glob(filepath.Join(h.root, "net", "cni", "*.json")); len(left) != 0 {
		t.Errorf("records left: %v", left)
	}
	h.ok(run...) // all of it is free again
	h.ok("stop", "-t", "0", "srv")
	h.ok("rm", "srv")
	if got := leased(t, leases); len(got) != 0 || portRules(t, port) != "" {
		t.Errorf("after stop: leases %v, rules %s", got, portRules(t, port))
	}
}

// cniCheck has the plugins look at an instance's network. (It has no published
// port: portmap 1.1.1, Debian's, looks for the rules of an IPv4 port in ip6tables,
// too.)
func cniCheck(t *testing.T, h *host, conf, leases string) {
	t.Helper()
	h.ok(h.run("-d", "--name", "checked", "--network", "cni:lab", "--cni-conf", conf, "--ip", "10.201.0.60", "debian:bookworm", "sleep", "1000")...)
	check := func() string { return h.ok("inspect", "--format", "{{.Inspect.networkCheck}}", "checked") }
	if out := check(); out != "ok\n" {
		t.Errorf("CHECK: %q", out)
	}
	if err := os.Remove(filepath.Join(leases, "10.201.0.60")); err != nil {
		t.Fatal(err)
	}
	if out := check(); !strings.Contains(out, "host-local") {
		t.Errorf("CHECK of an address that was taken away: %q", out)
	}
	h.ok("rm", "-f", "checked")
}

// TestCNIMistakes have one line each.
func TestCNIMistakes(t *testing.T) {
	h := newHostOf(t, ctr)
	conf, leases := cniNetwork(t, h)
	plain := `{"cniVersion": "0.4.0", "name": "plain", "type": "bridge", "bridge": "cnilab0", "ipam": {"type": "host-local", "subnet": "10.201.1.0/24", "dataDir": "` + filepath.Dir(leases) + `"}}`
	for name, text := range map[string]string{"plain.conf": plain, "bad.conflist": `{"cniVersion": "1.0.0", "name": "bad", "plugins": [{"type": "nosuch"}]}`} {
		if err := os.WriteFile(filepath.Join(conf, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"no such network", []string{"--network", "cni:moon"}, `"moon"`},
		{"no such directory", []string{"--network", "cni:lab", "--cni-conf", "/nonexistent"}, "/nonexistent"},
		{"no such plugin", []string{"--network", "cni:bad"}, "containernetworking-plugins"},
		{"a port without portmap", []string{"--network", "cni:plain", "-p", "8000:80"}, "portMappings"},
		{"a port of one's choice", []string{"--network", "cni:lab", "-p", "80"}, "give one"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := append([]string{"--rm", "--cni-conf", conf}, tc.args...)
			r := h.in(t).hvctl(h.run(append(args, "debian:bookworm", "true")...)...)
			if r.code != 125 || !strings.Contains(r.err, tc.want) || strings.Count(r.err, "\n") != 1 {
				t.Errorf("%+v lacks %q", r, tc.want)
			}
		})
	}
	if left, _ := filepath.Glob(filepath.Join(h.root, "net", "cni", "*.json")); len(left) != 0 {
		t.Errorf("records left: %v", left)
	}
	if out := h.ok(h.run("--rm", "--cni-conf", conf, "--network", "cni:plain", "debian:bookworm", "cat", "/proc/net/fib_trie")...); !strings.Contains(out, "10.201.1.") {
		t.Errorf("a single plugin's configuration: %s", out)
	}
	if got := leased(t, filepath.Join(filepath.Dir(leases), "plain")); len(got) != 0 {
		t.Errorf("leases left: %v", got)
	}
}
