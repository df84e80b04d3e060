package transport_test

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/hvctl/hvctl/migrate/transport"
)

// echo answers at addr until the test ends.
func echo(t *testing.T, addr string, o transport.Options) net.Listener {
	t.Helper()
	l, err := transport.Listen(addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); c.Close() }()
		}
	}()
	return l
}

func TestAnotherProcessConnects(t *testing.T) {
	id, err := transport.LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	tls := transport.Options{Identity: id, Allow: []string{id.Fingerprint()}}
	for name, addr := range map[string]string{
		"a unix socket": "unix:" + filepath.Join(t.TempDir(), "s"),
		"TLS":           echo(t, "127.0.0.1:0", tls).Addr().String(),
	} {
		t.Run(name, func(t *testing.T) {
			here, there, err := handoff.Pair()
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- transport.ServeDial(there, addr) }()
			o := tls
			o.Through = here
			dial, err := transport.Dial(addr, o)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(addr, "unix:") { // and at first nobody is there
				if _, err := dial(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
					t.Errorf("without anybody there: %v", err)
				}
				echo(t, addr, transport.Options{})
			}
			for range 2 {
				c, err := dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 2)
				if _, err := io.WriteString(c, "hi"); err != nil {
					t.Error(err)
				}
				if _, err := io.ReadFull(c, b); err != nil || string(b) != "hi" {
					t.Errorf("%q, %v", b, err)
				}
				c.Close()
			}
			here.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}
			if _, err := dial(t.Context()); err == nil {
				t.Error("it connects without anybody to do that")
			}
		})
	}
}
