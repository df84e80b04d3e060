package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/hvctl/hvctl/migrate/rendezvous"
)

// The two processes between a source's owner and a destination's: what the one asks for
// reaches the other, and when nobody asks any more, both end and leave nothing.
func TestConnectionsOfADestinationReachItsOwner(t *testing.T) {
	t.Setenv(roleEnv, "cli")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	owner, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	key := rendezvous.NewKey()
	source, err := lendDesk(l.(*net.TCPListener), key)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	reach, err := startReach(l.Addr().String(), path, key)
	if err != nil {
		t.Fatal(err)
	}
	defer reach.Process.Kill() //nolint:errcheck // it has ended, if all is well
	for _, word := range []string{"first", "second"} {
		files, err := handoff.Ask(source, "connect", 2*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		from, err := net.FileConn(files[0])
		_ = files[0].Close()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := from.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
		_ = from.(*net.TCPConn).CloseWrite()
		to, err := owner.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(to); err != nil || string(got) != word {
			t.Errorf("the owner hears %q, %v", got, err)
		}
		_, _ = to.Close(), from.Close()
	}
	_ = source.Close()
	if err := reach.Wait(); err != nil {
		t.Errorf("what reached the source: %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
}
