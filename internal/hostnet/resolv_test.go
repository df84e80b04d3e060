package hostnet

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestResolvConf(t *testing.T) {
	in := "# c\n; c\ndomain x\nnameserver 1.1.1.1 extra\n nameserver\t::1\nnameserver bad\nnameserver\noptions edns0\nnameserver ::ffff:9.9.9.9\n"
	got := parseResolvConf([]byte(in))
	if !slices.Equal(got, []netip.Addr{addr("1.1.1.1"), addr("::1"), addr("9.9.9.9")}) {
		t.Error(got)
	}
	if got := reachable(append(got, addr("127.0.0.53"), addr("0.0.0.0"))); !slices.Equal(got, []netip.Addr{addr("1.1.1.1"), addr("9.9.9.9")}) {
		t.Error(got)
	}
}

func TestServersBehindResolvedStub(t *testing.T) {
	dir := t.TempDir()
	p := paths{resolvConf: filepath.Join(dir, "a"), resolvedRun: filepath.Join(dir, "b")}
	if got := hostServers(p); got != nil {
		t.Errorf("no file: %v", got)
	}
	write := func(path, s string) { mustRun(t, "write", os.WriteFile(path, []byte(s), 0o600)) }
	write(p.resolvConf, "nameserver 127.0.0.53\n")
	if got := hostServers(p); !slices.Equal(got, []netip.Addr{addr("127.0.0.53")}) {
		t.Errorf("stub alone: %v", got)
	}
	write(p.resolvedRun, "nameserver 10.0.0.2\n")
	if got := hostServers(p); !slices.Equal(got, []netip.Addr{addr("10.0.0.2")}) {
		t.Errorf("stub with servers: %v", got)
	}
	write(p.resolvConf, "nameserver 10.9.9.9\n")
	if got := hostServers(p); !slices.Equal(got, []netip.Addr{addr("10.9.9.9")}) {
		t.Errorf("real server: %v", got)
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 127.0.0.53\noptions edns0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := parseResolvConf(data)
		if len(s) > maxServers {
			t.Fatalf("%d servers", len(s))
		}
		for _, a := range reachable(s) {
			if !a.Is4() || a.IsLoopback() {
				t.Fatal(a)
			}
		}
	})
}
