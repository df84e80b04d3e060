package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
)

// keeperHere has this program be a keeper (TestMain).
func keeperHere() []string { return []string{os.Args[0], VerbKeep} }

func freePort(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	mustRun(t, "listen", err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

// connects says whether somebody listens on a port.
func connects(port uint16) bool {
	c, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		c.Close()
	}
	return err == nil
}

func TestKeeperServesAndLeavesNothing(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before, fds, port := t.TempDir(), links(t), openFDs(t), freePort(t)
	o := Options{Root: root, ID: "a", Keeper: keeperHere(), Publish: []Port{{HostPort: port, Port: 80, Protocol: "tcp"}, {Port: 53, Protocol: "udp"}}}
	a, err := Attach(t.Context(), o)
	mustRun(t, "attach", err)
	if len(a.serving) != 0 {
		t.Errorf("this process serves %d itself", len(a.serving))
	}
	if !connects(port) {
		t.Error("nobody serves the published port")
	}
	if h := socketHolder(a.Ports[0]); !strings.Contains(h, fmt.Sprintf("(pid %d)", a.keeper.pid)) {
		t.Errorf("the port is %q's", h)
	}
	o.ID = "b"
	if _, err := Attach(t.Context(), o); !errors.Is(err, ErrPortInUse) || !strings.Contains(err.Error(), "instance a") {
		t.Errorf("the port of a living instance: %v", err)
	}
	mustRun(t, "close", a.Close())
	assertNothingLeft(t, root, before)
	if connects(port) {
		t.Error("the port is still served")
	}
	if n := openFDs(t); n > fds+4 {
		t.Errorf("%d descriptors before, %d after", fds, n)
	}
}

func TestKeeperForwardsNames(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	dnsServer(t, "127.0.0.2:53")
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	mustRun(t, "write", os.WriteFile(conf, []byte("nameserver 127.0.0.2\n"), 0o600))
	root, before := t.TempDir(), links(t)
	o := Options{Root: root, ID: "a", Keeper: keeperHere(), paths: paths{resolvConf: conf, resolvedRun: "/nonexistent"}}
	a, err := Attach(t.Context(), o)
	mustRun(t, "attach", err)
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.Gateway, 0))} // an address of the guests' network
	c, err := d.Dial("udp4", netip.AddrPortFrom(a.DNS[0], dnsPort).String())
	mustRun(t, "dial", err)
	defer c.Close()
	mustRun(t, "deadline", c.SetDeadline(time.Now().Add(10*time.Second)))
	q := "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00name"
	if _, err := c.Write([]byte(q)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := c.Read(buf); err != nil || n != len(q) || buf[2] != 0x81 {
		t.Errorf("answer %q, %v", buf[:n], err)
	}
	mustRun(t, "close", a.Close())
	assertNothingLeft(t, root, before)
}

// A killed owner leaves nothing, without anybody's help, and its port is free for
// the next, however quick that is.
func TestKeeperOutlivesAKilledOwner(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before, port := t.TempDir(), links(t), freePort(t)
	for range 5 {
		c := startHolder(t, fmt.Sprintf("%s victim - %d", root, port))
		mustRun(t, "kill", c.Process.Kill())
		_ = c.Wait()
	}
	eventually(t, "the keeper takes everything back", func() bool { return slices.Equal(links(t), before) })
	eventually(t, "and the lease", func() bool {
		ls, err := loadLeases(root, DefaultBridge(root))
		return err == nil && len(ls.ByID) == 0
	})
	assertNothingLeft(t, root, before)
}

// The tap of an owner that was taken over goes before its guard does, whatever the
// owner has done to it.
func TestKeeperRemovesATapThatIsHeld(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before := t.TempDir(), links(t)
	a, err := Attach(t.Context(), Options{Root: root, ID: "a", Keeper: keeperHere()})
	mustRun(t, "attach", err)
	rc, err := a.Tap.SyscallConn()
	mustRun(t, "tap", err)
	mustRun(t, "tap", rc.Control(func(fd uintptr) { err = unix.IoctlSetInt(int(fd), unix.TUNSETPERSIST, 1) }))
	mustRun(t, "make the tap stay", err)
	mustRun(t, "the owner says it is over", a.keeper.end())
	assertNothingLeft(t, root, before)
}

func TestKeeperGoesOnWithAnotherOwner(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before, port := t.TempDir(), links(t), freePort(t)
	o := Options{Root: root, ID: "a", Keeper: keeperHere(), Publish: []Port{{HostPort: port, Port: 80, Protocol: "tcp"}}}
	a, err := Attach(t.Context(), o)
	mustRun(t, "attach", err)
	h, files, err := a.Hand()
	mustRun(t, "hand over", err)
	for range 2 { // one that comes to nothing, and another
		b, err := Inherit(o, h, dupAll(t, files))
		mustRun(t, "inherit", err)
		b.Abandon()
	}
	b, err := Inherit(o, h, files)
	mustRun(t, "inherit", err)
	a.Leave()
	mustRun(t, "serve", b.Serve())
	if !connects(port) || b.Lost() != "" {
		t.Errorf("the keeper did not go on: %q", b.Lost())
	}
	mustRun(t, "close", b.Close())
	assertNothingLeft(t, root, before)
	if connects(port) {
		t.Error("the port is still served")
	}
}

// An owner from before there were keepers hands its sockets over, and they get one.
func TestSocketsOfAnOlderOwnerGetAKeeper(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before, port := t.TempDir(), links(t), freePort(t)
	o := Options{Root: root, ID: "a", Publish: []Port{{HostPort: port, Port: 80, Protocol: "tcp"}}}
	old, err := Attach(t.Context(), o)
	mustRun(t, "attach", err)
	socket, err := old.serving[0].(*tcpProxy).ln.File()
	mustRun(t, "duplicate", err)
	files := append(dupAll(t, old.Queues), socket)
	for _, s := range old.serving { // starting a process makes the socket block for a moment: whoever then accepts stays
		s.close()
	}
	o.Keeper = keeperHere()
	b, err := Inherit(o, Handed{
		TapName: old.TapName, Queues: 1, MAC: old.MAC, IP: old.IP, Gateway: old.Gateway, DNS: old.DNS, MTU: old.MTU, Bridge: old.Bridge, Ports: old.Ports,
	}, files)
	mustRun(t, "inherit", err)
	mustRun(t, "serve", b.Serve())
	closeAll(old.Queues) // it leaves
	if !connects(port) {
		t.Error("nobody serves the port")
	}
	mustRun(t, "close", b.Close())
	assertNothingLeft(t, root, before)
}

func TestLostKeeperIsSaidAndItsWorkIsDoneByTheNext(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	root, before := t.TempDir(), links(t)
	a, err := Attach(t.Context(), Options{Root: root, ID: "a", Keeper: keeperHere()})
	mustRun(t, "attach", err)
	mustRun(t, "kill", unix.Kill(a.keeper.pid, unix.SIGKILL))
	eventually(t, "it is said", func() bool { return a.Lost() != "" })
	if err := a.Close(); !errors.Is(err, errKeeper) {
		t.Errorf("close without a keeper: %v", err)
	}
	mustRun(t, "clean up", Cleanup(t.Context(), Options{Root: root}))
	assertNothingLeft(t, root, before)
}

// What an owner says that was taken over is no more than an end.
func TestKeeperIsNotForcedByNonsense(t *testing.T) {
	if !inNetns(t, testenv.NFTables) {
		return
	}
	for _, say := range []string{"{}", `"none of it"`, "[1]", `"` + strings.Repeat("x", 1<<20)} {
		root, before := t.TempDir(), links(t)
		a, err := Attach(t.Context(), Options{Root: root, ID: "a", Keeper: keeperHere()})
		mustRun(t, "attach", err)
		go func() { _, _ = a.keeper.link.Write([]byte(say + "\n")) }() // which it need not read
		<-a.keeper.gone
		if a.keeper.how != "exit status 0" {
			t.Errorf("%.20q: %s", say, a.keeper.how)
		}
		assertNothingLeft(t, root, before)
		_ = a.Close()
	}
}

func dupAll(t *testing.T, files []*os.File) (out []*os.File) {
	t.Helper()
	for _, f := range files {
		d, err := duplicate(f)
		mustRun(t, "duplicate", err)
		out = append(out, d)
	}
	return out
}
