package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/workload"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]uint64{
		"512M": 512 << 20, "1g": 1 << 30, "1.5G": 3 << 29, "64KiB": 64 << 10, "100": 100, "0": 0, "2tb": 2 << 40, "7B": 7,
	} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "M", "-1", "1x", "1e9", "1mm", "NaN", "Inf", "99999999T", "0x10", "1 M", "1_0"} {
		if got, err := parseSize(in); err == nil {
			t.Errorf("%q: accepted as %d", in, got)
		}
	}
}

func TestParsePort(t *testing.T) {
	ip := netip.MustParseAddr
	for in, want := range map[string]workload.Port{
		"8080:80":               {HostPort: 8080, Port: 80, Protocol: "tcp"},
		"53:53/udp":             {HostPort: 53, Port: 53, Protocol: "udp"},
		"80":                    {Port: 80, Protocol: "tcp"},
		"127.0.0.1:8080:80/TCP": {HostIP: ip("127.0.0.1"), HostPort: 8080, Port: 80, Protocol: "tcp"},
		"127.0.0.1::80":         {HostIP: ip("127.0.0.1"), Port: 80, Protocol: "tcp"},
		"[::1]:8080:80":         {HostIP: ip("::1"), HostPort: 8080, Port: 80, Protocol: "tcp"},
	} {
		if got, err := parsePort(in); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "70000", "1:70000", "70000:1", "a:80", "80/sctp", "80:", "x:1:2", "127.0.0.1:80", "1:2:3:4", "80/"} {
		if got, err := parsePort(in); err == nil {
			t.Errorf("%q: accepted as %+v", in, got)
		}
	}
}

func FuzzParsePort(f *testing.F) {
	for _, s := range []string{"80", "1:2", "[::1]:1:2/udp", "127.0.0.1::80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePort(s)
		if err == nil && (p.Port == 0 || p.Protocol != "tcp" && p.Protocol != "udp") {
			t.Errorf("%q: %+v", s, p)
		}
	})
}

func TestParseOthers(t *testing.T) {
	if r, err := parseUlimit("nofile=10:20"); err != nil || r.Type != "RLIMIT_NOFILE" || r.Soft != 10 || r.Hard != 20 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := parseUlimit("core=-1"); err != nil || r.Soft != ^uint64(0) || r.Hard != ^uint64(0) {
		t.Errorf("%+v, %v", r, err)
	}
	for _, in := range []string{"", "nofile", "nofile=", "fly=1", "nofile=2:1", "nofile=1:x"} {
		if r, err := parseUlimit(in); err == nil {
			t.Errorf("%q: accepted as %+v", in, r)
		}
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := parseDisk("path=" + file + ",ro,serial=abc"); err != nil || d != (workload.Disk{Path: file, ReadOnly: true, Serial: "abc"}) {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := parseDisk(file); err != nil || d.Path != file || d.ReadOnly {
		t.Errorf("%+v, %v", d, err)
	}
	all := workload.Disk{
		Path: file, Cache: "none", Engine: "uring", Queues: 4, DiskLimits: workload.DiskLimits{IOPS: 500, BPS: 10 << 20},
	}
	if d, err := parseDisk("path=" + file + ",format=raw,ro=off,cache=none,queues=4,iops=500,bps=10M,engine=uring"); err != nil || d != all {
		t.Errorf("%+v, %v", d, err)
	}
	if u, err := parseDiskUpdate("disk0,size=2G,iops=0"); err != nil || u.Serial != "disk0" || *u.SizeBytes != 2<<30 || *u.IOPS != 0 || u.BPS != nil {
		t.Errorf("%+v, %v", u, err)
	}
	if u, err := parseDiskUpdate("data,size=auto,bps=1M"); err != nil || *u.SizeBytes != 0 || *u.BPS != 1<<20 {
		t.Errorf("%+v, %v", u, err)
	}
	for _, bad := range []string{"disk0", "", "disk0,size=0", "disk0,size=", "disk0,iops=x", "disk0,cache=none"} {
		if u, err := parseDiskUpdate(bad); err == nil {
			t.Errorf("%q: accepted as %+v", bad, u)
		}
	}
	if d, err := parseDisk("path=" + file + ",format=qcow2,overlay=/tmp/over"); err != nil || d.Format != "qcow2" || d.Overlay != "/tmp/over" {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := parseDisk(file + ",format=qcow2,ro"); err != nil || d.Format != "qcow2" || !d.ReadOnly {
		t.Errorf("%+v, %v", d, err)
	}
	for bad, says := range map[string]string{
		"format=qcow2": "give overlay=FILE", "format=qcow2,ro,overlay=/x": "not both", "overlay=/x": "is for format=qcow2",
		"format=qcow2,ro,cache=none": "for raw images", "format=qcow2,overlay=/x,engine=uring": "for raw images",
	} {
		if d, err := parseDisk(file + "," + bad); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %+v, %v, want %q", bad, d, err, says)
		}
	}
	for _, bad := range []string{"format=vmdk", "overlay=", "cache=", "cache=unsafe", "queues=0", "queues=17", "queues=x", "iops=-1", "bps=2T", "engine=aio", "ro=maybe", "serial="} {
		if d, err := parseDisk(file + "," + bad); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %+v, %v", bad, d, err)
		}
	}
	for _, in := range []string{"", "path=", "ro", "path=" + file + ",x=1", "path=/no/such/file", "path=/", file + ",serial=" + strings.Repeat("x", 21)} {
		if d, err := parseDisk(in); err == nil {
			t.Errorf("%q: accepted as %+v", in, d)
		}
	}
	if m, err := parseMAC("02:AB:00:00:00:01"); err != nil || m != "02:ab:00:00:00:01" {
		t.Errorf("%s, %v", m, err)
	}
	for _, in := range []string{"", "02:00:00:00:00", "03:00:00:00:00:01", "2:0:0:0:0:1", "02-00-00-00-00-01"} {
		if m, err := parseMAC(in); err == nil {
			t.Errorf("%q: accepted as %s", in, m)
		}
	}
	if h, err := parseHost("db:10.0.0.2"); err != nil || h != "db:10.0.0.2" {
		t.Errorf("%s, %v", h, err)
	}
	if _, err := parseHost("db"); err == nil {
		t.Error("host without address accepted")
	}
	for _, in := range []string{"tmp", "/", "", "x:/y"} {
		if m, err := parseTmpfs(in); err == nil {
			t.Errorf("%q: accepted as %+v", in, m)
		}
	}
}

func TestEnvFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("# comment\n\nA=1\n  B=x y\r\nFROM_US\nNOT_SET_ANYWHERE\nC=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FROM_US", "ours")
	got, err := environ([]string{file}, []string{"A=2", "FROM_US"})
	if want := []string{"A=1", "B=x y", "FROM_US=ours", "C=", "A=2", "FROM_US=ours"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"=x\n", "A B=1\n"} {
		if err := os.WriteFile(file, []byte("OK=1\n"+bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := environ([]string{file}, nil); err == nil || !strings.Contains(err.Error(), file+":2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestFlagsAfterArguments(t *testing.T) {
	app := testApp(nil).app()
	for in, want := range map[string]string{
		"logs web -f":                 "logs -f web",
		"logs web -n 3 -f":            "logs -n 3 -f web",
		"stop a -t 5 b --signal=INT":  "stop -t 5 --signal=INT a b",
		"--root /x rm web -f":         "--root /x rm -f web",
		"kernel import f --name n":    "kernel import --name n f",
		"snapshot create web --tag t": "snapshot create --tag t web",
		"run -d img ls -l":            "run -d img ls -l",
		"exec -it web sh -c x":        "exec -it web sh -c x",
		"logs -- -odd -f":             "logs -- -odd -f",
		"logs web -fn 3":              "logs -fn 3 web",
		"nope -f x":                   "nope -f x",
		"logs web -n":                 "logs -n web",
		"--debug":                     "--debug",
		"ps":                          "ps",
	} {
		got := permute(app, append([]string{"hvctl"}, strings.Fields(in)...))
		if s := strings.Join(got[1:], " "); s != want {
			t.Errorf("%q: %q, want %q", in, s, want)
		}
	}
}

func TestBadFlagsAreNamed(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		args  []string
		texts []string
	}{
		{[]string{"run"}, []string{"no image given", "hvctl run --help"}},
		{[]string{"run", "-m", "lots", "-p", "x", "host"}, []string{`size "lots"`, `port "x"`}},
		{[]string{"run", "--cpus", "0", "host"}, []string{"--cpus 0"}},
		{[]string{"run", "--name", "a/b", "host"}, []string{`bad name "a/b"`}},
		{[]string{"run", "--network", "moon", "host"}, []string{`network "moon"`, "none, bridge, user, cni:NAME, tap:NAME or host"}},
		{[]string{"run", "--network", "user:host=perhaps", "host"}, []string{"host=on or host=off"}},
		{[]string{"run", "--network", "bridge:x", "host"}, []string{`"bridge:x"`, "queues=, vhost=, mtu=, rx= and tx="}},
		{[]string{"run", "--network", "bridge:address=10.0.0.1/8", "host"}, []string{"queues=, vhost=, mtu=, rx= and tx="}},
		{[]string{"run", "--network", "bridge:vhost=perhaps", "host"}, []string{"vhost=perhaps", "on or off"}},
		{[]string{"run", "--network", "bridge:queues=0", "host"}, []string{"queues=0", "number of queue pairs"}},
		{[]string{"run", "--network", "bridge:rx=1M,rx=2M", "host"}, []string{"rx=2M: twice"}},
		{[]string{"run", "--network", "bridge:mtu=99999", "host"}, []string{"576 to 65521"}},
		{[]string{"run", "--network", "tap", "host"}, []string{"tap:NAME"}},
		{[]string{"run", "--network", "tap:address=10.0.0.1/8", "host"}, []string{"name a tap"}},
		{[]string{"run", "--network", "tap:t0,address=10.0.0.1", "host"}, []string{"192.0.2.10/24"}},
		{[]string{"run", "--network", "tap:t0,rx=1M", "host"}, []string{"address=, gateway=, queues=, vhost= and mtu="}},
		{[]string{"run", "--network", "none", "-p", "1:1", "host"}, []string{"--publish needs --network bridge, user or cni"}},
		{[]string{"run", "--network", "none", "--ip", "10.0.0.9", "--mac-address", "02:00:00:00:00:01", "host"}, []string{"--ip needs --network bridge, user or cni", "--mac-address needs"}},
		{[]string{"run", "--cpu-weight", "0", "host"}, []string{"--cpu-weight 0", "1 to 10000"}},
		{[]string{"run", "--cpu-weight", "10001", "host"}, []string{"--cpu-weight 10001"}},
		{[]string{"run", "--cgroup-parent", "/a/../b", "host"}, []string{"--cgroup-parent", `".."`}},
		{[]string{"run", "--cgroup-parent", "a", "host"}, []string{"--cgroup-parent", "absolute"}},
		{[]string{"run", "--backend", "moon", "host"}, []string{`backend "moon"`, "fake"}},
		{[]string{"run", "--pull", "never", "no-such-image"}, []string{"no-such-image", "hvctl pull"}},
		{[]string{"run", "--stop-signal", "X", "host"}, []string{`signal "X"`}},
		{[]string{"run", "--cap-add", "FLY", "host"}, []string{`capability "FLY"`}},
		{[]string{"run", "-w", "tmp", "host"}, []string{`working directory "tmp"`}},
		{[]string{"run", "--env-file", "/no/such", "host"}, []string{"/no/such"}},
		{[]string{"logs"}, []string{"want one instance"}},
		{[]string{"logs", "a", "b"}, []string{"want one instance"}},
		{[]string{"logs", "nobody"}, []string{`no such instance: "nobody"`}},
		{[]string{"ps", "x"}, []string{`unexpected argument "x"`}},
		{[]string{"ps", "--filter", "moon=1"}, []string{`filter "moon=1"`}},
		{[]string{"frobnicate"}, []string{`unknown command "frobnicate"`}},
		{[]string{"kernel", "import"}, []string{"want one kernel file"}},
		{[]string{"kernel", "rm", "x"}, []string{"x"}},
		{[]string{"import", "x"}, []string{"want a source and a reference"}},
		{[]string{"import", "/no/such", "x"}, []string{"/no/such"}},
		{[]string{"rmi", "no-such-image"}, []string{"no-such-image"}},
		{[]string{"--log-level", "x", "ps"}, []string{`log level "x"`}},
	} {
		w.fails(125, c.texts, c.args...)
	}
	if got := w.must("ps", "-aq"); got != "" {
		t.Errorf("left behind: %s", got)
	}
}

func TestImagesAndConfig(t *testing.T) {
	w := newWorld(t)
	if got := w.must("images"); !strings.Contains(got, "host:latest") {
		t.Errorf("images: %s", got)
	}
	if got := w.must("images", "-q"); got != "host:latest\n" {
		t.Errorf("images -q: %q", got)
	}
	if got := w.must("config"); !strings.Contains(got, w.root) || !strings.Contains(got, `"fake"`) {
		t.Errorf("config: %s", got)
	}
	if got := w.must("version"); !strings.HasPrefix(got, "hvctl ") {
		t.Errorf("version: %s", got)
	}
	w.store = t.TempDir()
	src := filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(src, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := w.must("import", src, "mine", "--cmd", "echo", "--cmd", "hi there", "-e", "PATH=/bin:/usr/bin"); !strings.HasPrefix(got, "sha256:") {
		t.Errorf("import: %s", got)
	}
	if got := w.must("run", "--rm", "mine"); got != "hi there\n" {
		t.Errorf("run of an import: %q", got)
	}
	w.must("tag", "mine", "yours:1")
	if got := w.must("images", "-q"); !strings.Contains(got, "yours:1\n") {
		t.Errorf("after tag: %q", got)
	}
	w.must("rmi", "mine", "yours:1")
	w.must("prune")
	if got := w.must("images", "-q"); got != "" {
		t.Errorf("after rmi: %q", got)
	}
	w.fails(125, []string{"kernel"}, "kernel", "default")
	if got := w.must("kernel", "ls", "--json"); got != "[]\n" {
		t.Errorf("kernel ls: %q", got)
	}
}

func TestVsock(t *testing.T) {
	for in, want := range map[string]workload.Vsock{
		"cid=3":                       {CID: 3, Backend: "user"},
		"cid=77,backend=vhost":        {CID: 77, Backend: "vhost"},
		"backend=user,path=/s,cid=99": {CID: 99, Backend: "user", Path: "/s"},
		"cid=4294967294":              {CID: 1<<32 - 2, Backend: "user"},
	} {
		if v, err := parseVsock(in); err != nil || *v != want {
			t.Errorf("%q: %+v, %v", in, v, err)
		}
	}
	if v, err := parseVsock("cid=3,path=s"); err != nil || !filepath.IsAbs(v.Path) {
		t.Errorf("relative path: %+v, %v", v, err)
	}
	for in, want := range map[string]string{
		"":                             "want cid=N",
		"backend=vhost":                "no cid",
		"cid=2":                        "from 3 to 4294967294",
		"cid=4294967295":               "from 3",
		"cid=x":                        "from 3",
		"cid":                          "not understood",
		"cid=3,backend=tcp":            "use user or vhost",
		"cid=3,path=":                  "not understood",
		"cid=3,port=1":                 "not understood",
		"cid=3,backend=vhost,path=/s":  "AF_VSOCK",
		"cid=3,path=/s,backend=vhost,": "not understood",
	} {
		if v, err := parseVsock(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want an error with %q", in, v, err, want)
		}
	}
}
