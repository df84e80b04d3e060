package main

import (
	"bufio"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// parseSize reads a number of bytes: 512M, 1.5g, 64KiB, 4096. Units are
// powers of 1024, as docker's are.
func parseSize(s string) (uint64, error) {
	num := strings.TrimRight(s, "bBiIkKmMgGtT")
	unit := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(s[len(num):]), "b"), "i")
	shift, ok := map[string]uint{"": 0, "k": 10, "m": 20, "g": 30, "t": 40}[unit]
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || !ok || f < 0 || math.IsNaN(f) || strings.ContainsAny(num, "eExXpP_") {
		return 0, fmt.Errorf("size %q: want a number with unit, such as 512M or 2G", s)
	}
	f *= float64(uint64(1) << shift)
	if f >= 1<<62 {
		return 0, fmt.Errorf("size %q: too large", s)
	}
	return uint64(f), nil
}

// parsePort reads [ip:]hostPort:port[/proto], [ip:]:port (any free host port)
// and port alone, which is the same. An IPv6 address is in brackets.
func parsePort(s string) (workload.Port, error) {
	p := workload.Port{Protocol: "tcp"}
	bad := func(why string) (workload.Port, error) {
		return p, fmt.Errorf("port %q: %s; want [IP:]HOSTPORT:PORT[/tcp|udp]", s, why)
	}
	spec, proto, ok := strings.Cut(s, "/")
	if ok {
		p.Protocol = strings.ToLower(proto)
	}
	if p.Protocol != "tcp" && p.Protocol != "udp" {
		return bad("protocol " + strconv.Quote(proto) + " is unknown")
	}
	host, port := "", spec
	if i := strings.LastIndexByte(spec, ':'); i >= 0 {
		host, port = spec[:i], spec[i+1:]
		if j := strings.LastIndexByte(host, ':'); j >= 0 && !strings.HasSuffix(host, "]") {
			ip, err := netip.ParseAddr(strings.Trim(host[:j], "[]"))
			if err != nil {
				return bad("no IP address: " + strconv.Quote(host[:j]))
			}
			p.HostIP, host = ip, host[j+1:]
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return bad("no port number from 1 to 65535: " + strconv.Quote(port))
	}
	p.Port = uint16(n)
	if host != "" {
		if n, err = strconv.ParseUint(host, 10, 16); err != nil {
			return bad("no port number from 0 to 65535: " + strconv.Quote(host))
		}
		p.HostPort = uint16(n)
	}
	return p, nil
}

// parseUlimit reads NAME=SOFT[:HARD] with -1 or "unlimited" for no limit.
func parseUlimit(s string) (specs.POSIXRlimit, error) {
	bad := fmt.Errorf("ulimit %q: want NAME=SOFT[:HARD], such as nofile=1024:4096", s)
	name, val, ok := strings.Cut(s, "=")
	if !ok || !ulimits[name] {
		return specs.POSIXRlimit{}, bad
	}
	soft, hard, two := strings.Cut(val, ":")
	if !two {
		hard = soft
	}
	r := specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name)}
	for _, v := range []struct {
		text string
		to   *uint64
	}{{soft, &r.Soft}, {hard, &r.Hard}} {
		if v.text == "-1" || v.text == "unlimited" {
			*v.to = math.MaxUint64
			continue
		}
		n, err := strconv.ParseUint(v.text, 10, 64)
		if err != nil {
			return r, bad
		}
		*v.to = n
	}
	if r.Soft > r.Hard {
		return r, fmt.Errorf("ulimit %q: the soft limit is above the hard one", s)
	}
	return r, nil
}

var ulimits = map[string]bool{
	"as": true, "core": true, "cpu": true, "data": true, "fsize": true, "locks": true, "memlock": true, "msgqueue": true,
	"nice": true, "nofile": true, "nproc": true, "rss": true, "rtprio": true, "rttime": true, "sigpending": true, "stack": true,
}

// parseTmpfs reads PATH[:OPTION,...].
func parseTmpfs(s string) (specs.Mount, error) {
	path, opts, _ := strings.Cut(s, ":")
	if !filepath.IsAbs(path) || filepath.Clean(path) == "/" {
		return specs.Mount{}, fmt.Errorf("tmpfs %q: want an absolute path below /", s)
	}
	m := specs.Mount{Destination: filepath.Clean(path), Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "noexec"}}
	if opts != "" {
		m.Options = append(m.Options, strings.Split(opts, ",")...)
	}
	return m, nil
}

// parseVsock reads cid=N[,backend=user|vhost][,path=SOCKET].
func parseVsock(s string) (*workload.Vsock, error) {
	v := &workload.Vsock{Backend: workload.VsockUser}
	for kv := range strings.SplitSeq(s, ",") {
		k, val, has := strings.Cut(kv, "=")
		switch {
		case k == "cid" && has:
			n, err := strconv.ParseUint(val, 10, 32)
			if err != nil || n < 3 || n > math.MaxUint32-1 {
				return nil, fmt.Errorf("vsock %q: cid %q: want a number from 3 to %d", s, val, uint32(math.MaxUint32-1))
			}
			v.CID = uint32(n)
		case k == "backend" && (val == workload.VsockUser || val == workload.VsockVhost):
			v.Backend = val
		case k == "backend":
			return nil, fmt.Errorf("vsock %q: backend %q: use user or vhost", s, val)
		case k == "path" && val != "":
			p, err := filepath.Abs(val)
			if err != nil {
				return nil, err
			}
			v.Path = p
		default:
			return nil, fmt.Errorf("vsock %q: %q is not understood; want cid=N[,backend=user|vhost][,path=SOCKET]", s, kv)
		}
	}
	switch {
	case v.CID == 0:
		return nil, fmt.Errorf("vsock %q: no cid given", s)
	case v.Path != "" && v.Backend == workload.VsockVhost:
		return nil, fmt.Errorf("vsock %q: path goes with backend=user; with backend=vhost programs on the host use AF_VSOCK, CID %d", s, v.CID)
	}
	return v, nil
}

// parseHost reads NAME:IP as docker's --add-host.
func parseHost(s string) (string, error) {
	name, ip, ok := strings.Cut(s, ":")
	addr, err := netip.ParseAddr(strings.Trim(ip, "[]"))
	if !ok || err != nil || name == "" || strings.ContainsAny(name, " \t\n") {
		return "", fmt.Errorf("host %q: want NAME:IP", s)
	}
	return name + ":" + addr.String(), nil
}

// parsePairs reads K=V entries; what names them in the error.
func parsePairs(what string, list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(list))
	for _, s := range list {
		k, v, _ := strings.Cut(s, "=")
		if k == "" {
			return nil, fmt.Errorf("%s %q: want NAME=VALUE", what, s)
		}
		m[k] = v
	}
	return m, nil
}

// environ joins env files and -e values. A name without value is taken from
// our own environment, and left out when it is not there.
func environ(files, values []string) ([]string, error) {
	var out []string
	add := func(kv string) error {
		k, _, set := strings.Cut(kv, "=")
		if k == "" || strings.ContainsAny(k, " \t") {
			return fmt.Errorf("environment variable %q: want NAME=VALUE", kv)
		}
		if !set {
			v, ok := os.LookupEnv(k)
			if !ok {
				return nil
			}
			kv = k + "=" + v
		}
		out = append(out, kv)
		return nil
	}
	for _, name := range files {
		if err := eachLine(name, add); err != nil {
			return nil, err
		}
	}
	for _, kv := range values {
		if err := add(kv); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func eachLine(name string, add func(string) error) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("environment file: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimLeft(sc.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		if err := add(strings.TrimSuffix(line, "\r")); err != nil {
			return fmt.Errorf("%s:%d: %w", name, n, err)
		}
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return fmt.Errorf("environment file %s: a line is longer than %d bytes", name, bufio.MaxScanTokenSize)
		}
		return fmt.Errorf("environment file %s: %w", name, err)
	}
	return nil
}

// parseMAC checks a unicast Ethernet address.
func parseMAC(s string) (string, error) {
	parts := strings.Split(strings.ToLower(s), ":")
	ok := len(parts) == 6
	var first uint64
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(p) != 2 {
			ok = false
		}
		if i == 0 {
			first = n
		}
	}
	if !ok || first&1 != 0 {
		return "", fmt.Errorf("MAC address %q: want a unicast address such as 02:00:00:00:00:01", s)
	}
	return strings.Join(parts, ":"), nil
}
