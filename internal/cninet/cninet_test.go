package cninet

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/hostnet"
)

// plugin is a plugin that appends what it was asked to a file, and answers ADD
// with a result.
const plugin = `#!/bin/sh
cat >/dev/null
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME ${CNI_NETNS:-none} $CNI_ARGS" >>"$(dirname "$0")/log"
case $CNI_COMMAND in
ADD) cat "$(dirname "$0")/result" ;;
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}' ;;
esac
`

const result = `{"cniVersion": "1.0.0",
	"interfaces": [{"name": "veth1"}, {"name": "eth0", "mac": "02:00:00:00:00:09", "sandbox": "/x"}],
	"ips": [{"address": "fd00::2/64"}, {"address": "10.9.0.7/24", "gateway": "10.9.0.1", "interface": 1}],
	"dns": {"nameservers": ["9.9.9.9", "nonsense"]}}`

func setUp(t *testing.T, result string) (r hostnet.CNIRequest, log func() string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"fake": plugin, "result": result, "log": "",
		"a.conflist": `{"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "fake"}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r = hostnet.CNIRequest{ID: "box", Network: "lab", ConfDir: dir, Plugins: []string{dir}, Cache: filepath.Join(dir, "cache"), NetNS: "/x"}
	return r, func() string {
		b, err := os.ReadFile(filepath.Join(dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

func serve(t *testing.T, verb string, r hostnet.CNIRequest) (a hostnet.CNIAnswer) {
	t.Helper()
	in, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Serve(context.Background(), verb, bytes.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAddAndDelete(t *testing.T) {
	r, log := setUp(t, result)
	r.IP, r.MAC = netip.MustParseAddr("10.9.0.7"), "02:00:00:00:00:09"
	a := serve(t, "add", r)
	if a.Error != "" || a.IP.String() != "10.9.0.7/24" || a.Gateway.String() != "10.9.0.1" || a.MAC != r.MAC || len(a.DNS) != 1 {
		t.Errorf("%+v", a)
	}
	// The configuration is gone, and so is the namespace: what was added is taken
	// back nevertheless.
	if err := os.Remove(filepath.Join(r.ConfDir, "a.conflist")); err != nil {
		t.Fatal(err)
	}
	r.NetNS = ""
	if a := serve(t, "del", r); a.Error != "" {
		t.Error(a.Error)
	}
	want := "ADD box eth0 /x IgnoreUnknown=1;IP=10.9.0.7;MAC=02:00:00:00:00:09\nDEL box eth0 none IgnoreUnknown=1;IP=10.9.0.7;MAC=02:00:00:00:00:09\n"
	if got := log(); got != want {
		t.Errorf("the plugin was asked:\n%swant:\n%s", got, want)
	}
}

// TestUselessResultsAreTakenBack: a plugin is not trusted to do what it was asked.
func TestUselessResultsAreTakenBack(t *testing.T) {
	for _, tc := range []struct{ name, result, ip, want string }{
		{"IPv6 only", `{"cniVersion": "1.0.0", "ips": [{"address": "fd00::2/64"}]}`, "", "no IPv4 address"},
		{"no interface", `{"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.7/24"}]}`, "", "no interface eth0"},
		{"another address", result, "10.9.0.8", "10.9.0.7 in place of"},
		{"no JSON", "x", "", "lab"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, log := setUp(t, tc.result)
			if tc.ip != "" {
				r.IP = netip.MustParseAddr(tc.ip)
			}
			if a := serve(t, "add", r); !strings.Contains(a.Error, tc.want) {
				t.Errorf("%+v lacks %q", a, tc.want)
			}
			if !strings.Contains(log(), "DEL box") {
				t.Errorf("not taken back: %s", log())
			}
		})
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, tc := range []struct {
		name, verb string
		change     func(*hostnet.CNIRequest)
		want       string
	}{
		{"no such network", "add", func(r *hostnet.CNIRequest) { r.Network = "moon" }, `"moon"`},
		{"no configurations", "add", func(r *hostnet.CNIRequest) { r.ConfDir = "/nonexistent" }, "--cni-conf"},
		{"no plugin", "add", func(r *hostnet.CNIRequest) { r.Plugins = []string{"/nonexistent"} }, "--cni-plugins"},
		{"ports without portmap", "add", func(r *hostnet.CNIRequest) { r.Publish = []hostnet.Port{{HostPort: 1, Port: 2, Protocol: "tcp"}} }, "portMappings"},
		{"another verb", "fly", func(*hostnet.CNIRequest) {}, "add, check and del"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, _ := setUp(t, result)
			tc.change(&r)
			if a := serve(t, tc.verb, r); !strings.Contains(a.Error, tc.want) {
				t.Errorf("%+v lacks %q", a, tc.want)
			}
		})
	}
	for name, change := range map[string]func(*hostnet.CNIRequest){
		"no such network": func(r *hostnet.CNIRequest) { r.Network = "moon" },
		"no plugin":       func(r *hostnet.CNIRequest) { r.Plugins = []string{"/nonexistent"} },
		"refused ports":   func(r *hostnet.CNIRequest) { r.Publish = []hostnet.Port{{HostPort: 1, Port: 2, Protocol: "tcp"}} },
	} {
		r, _ := setUp(t, result)
		change(&r)
		if a := serve(t, "del", r); a.Error != "" {
			t.Errorf("%s: nothing was added, but to take it back fails: %s", name, a.Error)
		}
	}
	if err := Serve(context.Background(), "add", strings.NewReader("{"), &bytes.Buffer{}); err == nil {
		t.Error("half a request was taken")
	}
}
