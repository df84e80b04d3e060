package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func nil2ctx() context.Context     { return context.Background() }
func noReclaim()                   {}
func testLeases(s string) *leases  { return &leases{Subnet: prefix(s), ByID: map[string]lease{}} }
func opts(id string) *Options      { return &Options{ID: id, Bridge: "hvctl0"} }

func TestLeasesGiveEveryAddressOnce(t *testing.T) {
	l := testLeases("10.77.0.0/29")
	seen := map[netip.Addr]bool{}
	for i := range 5 { // 8 less network, gateway, broadcast
		le, err := l.take(opts(fmt.Sprint(i)), noReclaim)
		mustRun(t, "take", err)
		if seen[le.IP] || !l.Subnet.Contains(le.IP) || le.IP == addr("10.77.0.0") || le.IP == addr("10.77.0.1") || le.IP == addr("10.77.0.7") {
			t.Errorf("lease %d is %s", i, le.IP)
		}
		seen[le.IP] = true
	}
	if _, err := l.take(opts("x"), noReclaim); !errors.Is(err, ErrExhausted) {
		t.Errorf("sixth lease: %v", err)
	}
	if len(l.ByID) != 5 {
		t.Errorf("%d leases after the failure", len(l.ByID))
	}
}

func TestLeasesLetAnAddressRest(t *testing.T) {
	l := testLeases("10.77.0.0/24")
	a, _ := l.take(opts("a"), noReclaim)
	delete(l.ByID, "a")
	b, err := l.take(opts("b"), noReclaim)
	if err != nil || a.IP == b.IP {
		t.Errorf("%s then %s (%v)", a.IP, b.IP, err)
	}
	// And it wraps around.
	l.Last = addr("10.77.0.254")
	if c, err := l.take(opts("c"), noReclaim); err != nil || c.IP != addr("10.77.0.2") {
		t.Errorf("after the last address: %s, %v", c.IP, err)
	}
}

func TestLeasesReclaimOnlyTheDeadAndOnlyWhenNeeded(t *testing.T) {
	l := testLeases("10.77.0.0/29")
	for i := range 5 {
		_, err := l.take(opts(fmt.Sprint(i)), noReclaim)
		mustRun(t, "take", err)
	}
	dead := l.ByID["3"].IP
	calls := 0
	le, err := l.take(opts("new"), func() {
		calls++
		l.reclaim("new", func(id, _ string) bool { return id != "3" })
	})
	if err != nil || le.IP != dead || calls != 1 {
		t.Errorf("got %s (want %s) after %d reclaims: %v", le.IP, dead, calls, err)
	}
	if _, ok := l.ByID["3"]; ok || len(l.ByID) != 5 {
		t.Errorf("leases: %v", l.ByID)
	}
}

func TestLeasesRefuseWhatIsTakenOrOutside(t *testing.T) {
	l := testLeases("10.77.0.0/24")
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	_, err := l.take(&Options{ID: "a", IP: addr("10.77.0.9"), MAC: mac}, noReclaim)
	mustRun(t, "take", err)
	for _, tc := range []struct {
		name string
		o    Options
		want error
		text string
	}{
		{"same IP", Options{ID: "b", IP: addr("10.77.0.9")}, ErrAddressInUse, "instance a"},
		{"same MAC", Options{ID: "b", MAC: mac}, ErrAddressInUse, "instance a"},
		{"gateway", Options{ID: "b", IP: addr("10.77.0.1")}, ErrOptions, "10.77.0.2 to 10.77.0.254"},
		{"network", Options{ID: "b", IP: addr("10.77.0.0")}, ErrOptions, "10.77.0.0"},
		{"broadcast", Options{ID: "b", IP: addr("10.77.0.255")}, ErrOptions, "10.77.0.255"},
		{"other network", Options{ID: "b", IP: addr("192.168.1.1")}, ErrOptions, "192.168.1.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := l.take(&tc.o, noReclaim)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v", err)
			}
			if len(l.ByID) != 1 {
				t.Errorf("leases: %v", l.ByID)
			}
		})
	}
	// The same instance again takes its own place.
	if le, err := l.take(&Options{ID: "a", IP: addr("10.77.0.9"), MAC: mac}, noReclaim); err != nil || le.IP != addr("10.77.0.9") {
		t.Errorf("own address again: %v, %v", le, err)
	}
}

func TestLeaseFileSurvivesAndGoes(t *testing.T) {
	root := t.TempDir()
	mustRun(t, "mkdir", os.Mkdir(filepath.Join(root, "net"), 0o700))
	l, err := loadLeases(root, "br")
	mustRun(t, "load nothing", err)
	l.Subnet = prefix("10.77.0.0/16")
	_, err = l.take(&Options{ID: "a", Publish: nil}, noReclaim)
	mustRun(t, "take", err)
	mustRun(t, "save", l.save())
	m, err := loadLeases(root, "br")
	mustRun(t, "load", err)
	if m.ByID["a"].IP != l.ByID["a"].IP || m.Subnet != l.Subnet || m.Last != l.Last {
		t.Errorf("saved %+v, loaded %+v", l, m)
	}
	delete(m.ByID, "a")
	mustRun(t, "save", m.save())
	if es, _ := os.ReadDir(filepath.Join(root, "net")); len(es) != 0 {
		t.Errorf("left: %v", es)
	}
	// A power cut may leave an empty file; that is no state, not a bad one.
	mustRun(t, "truncate", os.WriteFile(leasePath(root, "br"), nil, 0o600))
	if _, err := loadLeases(root, "br"); err != nil {
		t.Error(err)
	}
}

func TestDamagedLeaseFileIsNamed(t *testing.T) {
	root := t.TempDir()
	mustRun(t, "mkdir", os.Mkdir(filepath.Join(root, "net"), 0o700))
	for _, bad := range []string{
		"{", "[]", `{"leases":{"a":{"ip":"10.0.0.1","mac":"x","link":"l"}}}`,
		`{"leases":{"a":{"ip":"::1","mac":"02:00:00:00:00:01","link":"l"}}}`,
		`{"leases":{"a":{"ip":"10.0.0.1","mac":"02:00:00:00:00:01","link":"../x"}}}`,
		`{"subnet":"10.0.0.0/31"}`, `{"subnet":"fd00::/64"}`, `{"unknown":1}`, `{} {}`,
	} {
		mustRun(t, "write", os.WriteFile(leasePath(root, "br"), []byte(bad), 0o600))
		if _, err := loadLeases(root, "br"); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), leasePath(root, "br")) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzLeases(f *testing.F) {
	f.Add([]byte(`{"subnet":"10.77.0.0/29","last":"10.77.0.6","leases":{"a":{"ip":"10.77.0.2","mac":"02:00:00:00:00:01","link":"hv-a"}}}`))
	f.Add([]byte(`{"subnet":"255.255.255.248/29","last":"255.255.255.255","leases":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := &leases{ByID: map[string]lease{}, path: filepath.Join(t.TempDir(), "l")}
		if l.decode(data) != nil || !l.Subnet.IsValid() || l.Subnet.Bits() < 20 {
			return
		}
		le, err := l.take(opts("fuzz"), noReclaim)
		if err != nil {
			return
		}
		if !l.Subnet.Contains(le.IP) || le.IP == gateway(l.Subnet) || le.IP == broadcast(l.Subnet) {
			t.Fatalf("leased %s of %s", le.IP, l.Subnet)
		}
		for id, other := range l.ByID {
			if id != "fuzz" && other.IP == le.IP {
				t.Fatalf("leased %s twice", le.IP)
			}
		}
		if err := l.save(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestNamesAndMACs(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	if n := linkName(id); n != "hv-0123456789ab" {
		t.Error(n)
	}
	for _, id := range []string{"x", strings.Repeat("z", 64), strings.Repeat("long", 100)} {
		if n := linkName(id); !validIfName(n) {
			t.Errorf("link of %q is %q", id, n)
		}
	}
	if !validMAC(DeriveMAC(id)) || DeriveMAC(id)[0]&2 == 0 || DeriveMAC(id).String() == DeriveMAC("x").String() {
		t.Error(DeriveMAC(id))
	}
	if DefaultBridge("/run/hvctl/") != "hvctl0" || DefaultBridge("/tmp/a") == DefaultBridge("/tmp/b") || !validIfName(DefaultBridge("/tmp/a")) {
		t.Error(DefaultBridge("/run/hvctl/"), DefaultBridge("/tmp/a"), DefaultBridge("/tmp/b"))
	}
}

func TestOptionsAreChecked(t *testing.T) {
	ok := func() Options { return Options{Root: "/r", ID: "i"} }
	for _, tc := range []struct {
		name string
		set  func(*Options)
	}{
		{"relative root", func(o *Options) { o.Root = "r" }},
		{"no ID", func(o *Options) { o.ID = "" }},
		{"bridge path", func(o *Options) { o.Bridge = "../x" }},
		{"bridge all", func(o *Options) { o.Bridge = "all" }},
		{"long bridge", func(o *Options) { o.Bridge = "0123456789abcdef" }},
		{"small MTU", func(o *Options) { o.MTU = 100 }},
		{"large MTU", func(o *Options) { o.MTU = 70000 }},
		{"multicast MAC", func(o *Options) { o.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }},
		{"short MAC", func(o *Options) { o.MAC = net.HardwareAddr{2, 0} }},
		{"zero MAC", func(o *Options) { o.MAC = make(net.HardwareAddr, 6) }},
		{"IPv6", func(o *Options) { o.IP = addr("::1") }},
		{"host bits", func(o *Options) { o.Subnet = prefix("10.0.0.1/24") }},
		{"tiny subnet", func(o *Options) { o.Subnet = prefix("10.0.0.0/30") }},
		{"queues", func(o *Options) { o.Queues = 1000 }},
		{"protocol", func(o *Options) { o.Publish = []Port{{Port: 1, Protocol: "sctp"}} }},
		{"port 0", func(o *Options) { o.Publish = []Port{{HostPort: 1, Protocol: "tcp"}} }},
		{"DNS", func(o *Options) { o.DNS = []netip.Addr{{}} }},
	} {
		o := ok()
		tc.set(&o)
		if err := o.fill(); !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	o := ok()
	if err := o.fill(); err != nil || o.Queues != 1 || o.Bridge == "" || o.Log == nil {
		t.Errorf("%v, %+v", err, o)
	}
}

func TestLockWaitsAndGivesUp(t *testing.T) {
	root := t.TempDir()
	unlock, err := lock(t.Context(), root)
	mustRun(t, "lock", err)
	ctx, cancel := context.WithCancelCause(t.Context())
	errc := make(chan error)
	go func() { _, err := lock(ctx, root); errc <- err }()
	why := errors.New("enough")
	cancel(why)
	if err := <-errc; !errors.Is(err, why) || !strings.Contains(err.Error(), root) {
		t.Errorf("got %v", err)
	}
	// The one that gave up must not keep the lock it gets later.
	got := make(chan func())
	go func() {
		u, err := lock(t.Context(), root)
		if err != nil {
			t.Error(err)
		}
		got <- u
	}()
	unlock()
	(<-got)()
}
