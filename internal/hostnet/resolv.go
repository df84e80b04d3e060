package hostnet

import (
	"bufio"
	"bytes"
	"net/netip"
	"os"
	"strings"
)

// maxServers bounds what is read from a resolv.conf; glibc uses three.
const maxServers = 8

// hostServers are the name servers the host asks. Where the host asks only
// systemd-resolved's stub, it is the servers behind that one.
func hostServers(p paths) []netip.Addr {
	s := readResolvConf(p.resolvConf)
	if len(s) > 0 && len(reachable(s)) == 0 {
		if behind := readResolvConf(p.resolvedRun); len(reachable(behind)) > 0 {
			return behind
		}
	}
	return s
}

func readResolvConf(path string) []netip.Addr {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return parseResolvConf(data)
}

// parseResolvConf returns the nameserver lines of a resolv.conf (man 5
// resolv.conf); everything else is ignored.
func parseResolvConf(data []byte) []netip.Addr {
	var out []netip.Addr
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() && len(out) < maxServers {
		f := strings.Fields(sc.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// reachable are the servers a guest can ask itself: IPv4 and not on the
// host's loopback.
func reachable(servers []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, s := range servers {
		if s.Is4() && !s.IsLoopback() && !s.IsUnspecified() {
			out = append(out, s)
		}
	}
	return out
}
