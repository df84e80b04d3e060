package vsock_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/virtiotest"
	"github.com/hvctl/hvctl/virtio/vsock"
)

func bridge(t *testing.T, d *vsock.Device) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "v.sock")
	b, err := vsock.NewBridge(d, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return path
}

func dialUnix(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.UnixConn)
}

func TestBridgeToTheGuest(t *testing.T) {
	w := newWire(t)
	path := bridge(t, w.a)
	l := listen(t, w.b, 1234) // the guest's program
	u := dialUnix(t, path)
	// What follows the first line at once is the guest's.
	if _, err := io.WriteString(u, "CONNECT 1234\nhello"); err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	r := bufio.NewReader(u)
	line, err := r.ReadString('\n')
	if want := fmt.Sprintf("OK %d\n", far.RemoteAddr().(vsock.Addr).Port); line != want || err != nil {
		t.Fatalf("got %q, %v, want %q", line, err, want)
	}
	if err := u.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(far); string(b) != "hello" || err != nil {
		t.Errorf("guest read %q, %v", b, err)
	}
	if _, err := far.Write(pattern(300_000)); err != nil {
		t.Fatal(err)
	}
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Error(err)
	}
	wantBytes(t, b, pattern(300_000))
}

func TestBridgeFromTheGuest(t *testing.T) {
	w := newWire(t)
	path := bridge(t, w.a)
	for port, perm := range map[uint32]bool{52: true, 53: false} {
		if !perm {
			if _, err := w.b.Dial(t.Context(), port); err == nil {
				t.Errorf("port %d was reached", port)
			}
			continue
		}
		ln, err := net.Listen("unix", fmt.Sprintf("%s_%d", path, port))
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		far, err := w.b.Dial(t.Context(), port)
		if err != nil {
			t.Fatal(err)
		}
		u, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := far.Write([]byte("from the guest")); err != nil {
			t.Fatal(err)
		}
		if err := far.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(u); string(b) != "from the guest" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		if _, err := u.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		_ = u.Close()
		if b, err := io.ReadAll(far); string(b) != "answer" || err != nil {
			t.Errorf("guest read %q, %v", b, err)
		}
		_ = far.Close()
	}
	// A port of this process goes before the bridge.
	l := listen(t, w.a, 54)
	far, err := w.b.Dial(t.Context(), 54)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if c, err := l.Accept(); err != nil || c.RemoteAddr().(vsock.Addr).CID != cid {
		t.Error(err)
	}
	virtiotest.Poll(func() bool { slots, _ := w.a.Live(); return slots == 1 })
	if slots, _ := w.a.Live(); slots != 1 {
		t.Errorf("%d slots in use", slots)
	}
}

func TestBridgeRefuses(t *testing.T) {
	w := newWire(t)
	path := bridge(t, w.a)
	for _, hello := range []string{
		"CONNECT 1234\n", // nobody listens
		"HELLO\n", "\n", "CONNECT\n", "CONNECT x\n", "CONNECT -1\n", "CONNECT 4294967296\n", "CONNECT 1 2\n", "connect 1\n",
		strings.Repeat("C", 100), "CONNECT 1",
	} {
		u := dialUnix(t, path)
		if _, err := io.WriteString(u, hello); err != nil && len(hello) < 32 {
			t.Fatal(err)
		}
		if hello == "CONNECT 1" {
			_ = u.CloseWrite()
		}
		b, _ := io.ReadAll(u) // a reset when it did not read all of ours
		if len(b) != 0 {
			t.Errorf("%q was answered with %q", hello, b)
		}
	}
	if slots, _ := w.a.Live(); slots != 0 {
		t.Errorf("%d slots in use", slots)
	}
}

func TestBridgeSockets(t *testing.T) {
	d := newDevice(t)
	path := bridge(t, d)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	other := newDevice(t)
	dir := t.TempDir()
	file, stale := filepath.Join(dir, "file"), filepath.Join(dir, "stale")
	if err := os.WriteFile(file, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]string{
		"in use": path, "a file": file, "no directory": filepath.Join(dir, "no", "where"), "too long": filepath.Join(dir, strings.Repeat("x", 120)),
	} {
		if _, err := vsock.NewBridge(other, p); !errors.Is(err, vsock.ErrBridge) || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, err := os.ReadFile(file); string(b) != "keep" {
		t.Errorf("the file is now %q, %v", b, err)
	}
	if _, err := vsock.NewBridge(d, filepath.Join(dir, "second")); !errors.Is(err, vsock.ErrBridge) {
		t.Errorf("second bridge: %v", err)
	}
	// What a killed process left behind is no hindrance.
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close()
	dev, err := vsock.Kind.New(virtio.Args{Values: map[string]string{"path": stale}})
	if err != nil {
		t.Fatal(err)
	}
	_ = dialUnix(t, stale)
	if err := dev.(io.Closer).Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// Close ends what goes through the bridge, on both sides.
func TestBridgeCloseEndsConnections(t *testing.T) {
	w := newWire(t)
	path := filepath.Join(t.TempDir(), "v.sock")
	b, err := vsock.NewBridge(w.a, path)
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, w.b, 1)
	u := dialUnix(t, path)
	half := dialUnix(t, path) // says nothing
	if _, err := io.WriteString(u, "CONNECT 1\n"); err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(u).ReadString('\n'); err != nil {
		t.Fatal(line, err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	for _, r := range []io.Reader{u, half, far} {
		if n, err := io.Copy(io.Discard, r); n != 0 {
			t.Errorf("%d, %v", n, err)
		}
	}
	_ = far.Close()
}
