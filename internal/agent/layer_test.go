package agent_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/guestproto"
)

// TestAWritableLayerGoesFromGuestToGuest: what was written, removed and linked in
// one is there in the other before its first process begins.
func TestAWritableLayerGoesFromGuestToGuest(t *testing.T) {
	g := startGuest(t)
	g.run(guestproto.Run{Process: proc("main", "sleep", "1000")}, agent.IO{})
	x, err := g.Exec(t.Context(), proc("x", "sh", "-c", "echo said > /home/app/f; chmod 700 /home; /bin/busybox rm /bin/ps; /bin/busybox ln /home/app/f /g"), agent.IO{})
	if err != nil {
		t.Fatal(err)
	}
	if e := g.wait(x); e.Status() != 0 {
		t.Fatalf("exit %+v", e)
	}
	suspended := g.Suspend(t.Context())
	if err := suspended; err != nil && (!errors.Is(err, agent.ErrState) || !strings.Contains(err.Error(), "no cgroups")) {
		t.Errorf("suspend: %v", err) // else this machine has none for a guest without hardware
	}
	var tar, why bytes.Buffer
	p, err := g.PackLayer(t.Context(), "pack", agent.IO{Stdout: &tar, Stderr: &why})
	if err != nil {
		t.Fatal(err)
	}
	if e := g.wait(p); e.Status() != 0 {
		t.Fatalf("exit %+v: %s", e, why.String())
	}

	// Without hardware, two guests have one cgroup.
	if suspended == nil {
		if err := g.Continue(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Shutdown(t.Context(), 0, 0); err != nil {
		t.Fatal(err)
	}
	g.gone()
	to := startGuest(t)
	p, err = to.FillLayer(t.Context(), "fill", guestproto.Upper{}, agent.IO{Stdin: bytes.NewReader(tar.Bytes()), Stderr: &why})
	if err != nil {
		t.Fatal(err)
	}
	if e := to.wait(p); e.Status() != 0 {
		t.Fatalf("exit %+v: %s", e, why.String())
	}
	var out syncBuffer
	first := to.run(guestproto.Run{Process: proc("main", "sh", "-c", "cat /g; ls /bin/ps; ls -ld /home")}, agent.IO{Stdout: &out, Stderr: &out})
	if to.wait(first); !strings.HasPrefix(out.String(), "said\n") || !strings.Contains(out.String(), "/bin/ps: No such file") || !strings.Contains(out.String(), "drwx------") {
		t.Errorf("there is now\n%s", out.String())
	}
}

// TestALayerThatIsNoneIsRefused: with the reason, and a layer comes before Run or not
// at all.
func TestALayerThatIsNoneIsRefused(t *testing.T) {
	g := startGuest(t)
	if _, err := g.PackLayer(t.Context(), "early", agent.IO{Stdout: new(bytes.Buffer)}); !errors.Is(err, agent.ErrState) {
		t.Errorf("packed before there is one: %v", err)
	}
	if err := g.Suspend(t.Context()); !errors.Is(err, agent.ErrState) {
		t.Errorf("suspended before there is a workload: %v", err)
	}
	var why bytes.Buffer
	p, err := g.FillLayer(t.Context(), "fill", guestproto.Upper{}, agent.IO{Stdin: strings.NewReader(strings.Repeat("no tar", 1000)), Stderr: &why})
	if err != nil {
		t.Fatal(err)
	}
	if e := g.wait(p); e.Status() != 1 || !strings.Contains(why.String(), "tar stream") {
		t.Errorf("exit %+v: %s", e, why.String())
	}
	if _, err := g.FillLayer(t.Context(), "again", guestproto.Upper{}, agent.IO{}); !errors.Is(err, agent.ErrState) {
		t.Errorf("filled twice: %v", err)
	}
}
