package agent_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/archive"
	"github.com/hvctl/hvctl/internal/guestproto"
)

// TestFilesAreCopiedBothWays: without a program of the image, and with what
// goes wrong said.
func TestFilesAreCopiedBothWays(t *testing.T) {
	g := startGuest(t)
	g.run(guestproto.Run{Process: proc("main", "sleep", "1000")}, agent.IO{})
	root, err := archive.OpenRoot("/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()

	var tar, why bytes.Buffer
	p, err := g.Copy(t.Context(), guestproto.Copy{ID: "c1", Path: "/etc/."}, agent.IO{Stdout: &tar, Stderr: &why})
	if err != nil {
		t.Fatal(err)
	}
	if e := g.wait(p); e.Status() != 0 {
		t.Fatalf("exit %+v: %s", e, why.String())
	}
	dir := t.TempDir()
	if err := archive.Unpack(bytes.NewReader(tar.Bytes()), root, dir, archive.Options{}); err != nil {
		t.Fatal(err)
	}
	p, err = g.Copy(t.Context(), guestproto.Copy{ID: "c2", Path: "/tmp/new", In: true}, agent.IO{Stdin: bytes.NewReader(tar.Bytes()), Stderr: &why})
	if err != nil {
		t.Fatal(err)
	}
	if e := g.wait(p); e.Status() != 0 {
		t.Fatalf("exit %+v: %s", e, why.String())
	}
	var out syncBuffer
	x, err := g.Exec(t.Context(), proc("x", "cat", "/tmp/new/passwd"), agent.IO{Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if g.wait(x); !strings.Contains(out.String(), "app:x:1000") {
		t.Errorf("what was copied out and in again has %q", out.String())
	}
	// A link of the workload leads nowhere outside of it, and is not followed.
	p, err = g.Copy(t.Context(), guestproto.Copy{ID: "c3", Path: "/../../none"}, agent.IO{Stdout: io.Discard, Stderr: &why})
	if err != nil {
		t.Fatal(err)
	}
	if e := g.wait(p); e.Status() != 1 || !strings.Contains(why.String(), "no such file") {
		t.Errorf("exit %+v: %s", e, why.String())
	}
	if err := p.Signal(t.Context(), 9); err == nil {
		t.Error("a copy took a signal")
	}
}

func TestTopListsTheWorkload(t *testing.T) {
	g := startGuest(t)
	g.run(guestproto.Run{Process: proc("main", "sleep", "1000")}, agent.IO{})
	table, err := g.Top(t.Context())
	if err != nil {
		if strings.Contains(err.Error(), "no cgroups") {
			t.Skip("no cgroup v2 here: ", err)
		}
		t.Fatal(err)
	}
	if len(table.Processes) != 1 || table.Processes[0].PID != 1 || table.Processes[0].Command != "sleep 1000" {
		t.Errorf("%+v", table)
	}
}
