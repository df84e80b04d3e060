package control

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
)

const dialEnv = "CONTROL_TEST_DIAL"

// TestHelperDial is run by the test below as another user.
func TestHelperDial(t *testing.T) {
	path := os.Getenv(dialEnv)
	if path == "" {
		return
	}
	c := &Client{Dial: func() (*net.UnixConn, error) {
		return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	}}
	_, err := c.Info(t.Context())
	t.Logf("answer: %v", err)
}

// Even where the socket's mode would let another user in, the server does not.
func TestOtherUsersAreKeptOut(t *testing.T) {
	testenv.Require(t, testenv.Root)
	dir, err := os.MkdirTemp("", "control-") //nolint:usetesting // others can reach it, unlike t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	addr := &net.UnixAddr{Name: dir + "/s", Net: "unix"}
	l, err := net.ListenUnix("unix", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(addr.Name, 0o666); err != nil {
		t.Fatal(err)
	}
	s := NewServer(&fakeOwner{})
	go func() { _ = s.Serve(l) }()
	defer s.http.Close()
	exe := dir + "/exe" // the test binary's own directory is closed to others
	b, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, u := range []struct {
		uid  uint32
		want string
	}{{0, "answer: <nil>"}, {65534, "peer is gone"}} {
		cmd := exec.Command(exe, "-test.run=^TestHelperDial$", "-test.v")
		cmd.Env = append(os.Environ(), dialEnv+"="+addr.Name)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.uid, Gid: u.uid}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), u.want) {
			t.Errorf("user %d: %v\n%s", u.uid, err, out)
		}
	}
}
