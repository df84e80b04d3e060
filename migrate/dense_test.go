package migrate_test

import (
	"encoding/json"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/wire"
)

// A stripe of which nearly everything comes is worth a huge page; one of which
// little comes would waste it.
func TestOnlyDenseStripesGetHugePages(t *testing.T) {
	r := newRig(t, quick)
	const stripe = wire.StripePages * page
	src := r.src.g.Regions()[0]
	fillPages := func(first, n int) {
		for p := first; p < first+n; p++ {
			_ = r.src.g.WriteAt([]byte{byte(p), 1}, memory.GPA(p*page))
		}
	}
	clear(src.Bytes[:3*stripe])
	if err := r.src.g.Discard(0, 3*stripe); err != nil {
		t.Fatal(err)
	}
	fillPages(0, 512)                    // dense
	fillPages(512, 40)                   // sparse
	clear(src.Bytes[2*stripe:][:stripe]) // touched, but zeroes
	fillPages(1024, 30)
	if _, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send); err != nil {
		t.Fatal(err)
	}
	if got := r.dst.enlarged(); !slices.Contains(got, 0) || slices.Contains(got, stripe) || slices.Contains(got, 2*stripe) {
		t.Errorf("huge pages at %v, want one at 0 and none at %v and %v", got, stripe, 2*stripe)
	}
	r.judge(t, nil)
}

// A host without huge pages is asked once.
func TestGuestArrivesWhereHugePagesCannotBeHad(t *testing.T) {
	for name, errno := range map[string]unix.Errno{"never": unix.EINVAL, "not now": unix.EAGAIN} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(r *rig) { quick(r); r.dst.failure["MakeHuge"] = errno })
			g := r.src.g
			for p := range g.Regions()[0].Size / page {
				_ = g.WriteAt([]byte{byte(p), 1}, memory.GPA(p*page))
			}
			_, err := migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
			if err != nil {
				t.Fatal(err)
			}
			r.judge(t, nil)
			if n := len(r.dst.enlarged()); n == 0 || (errno == unix.EINVAL) != (n == 1) {
				t.Errorf("asked for %d huge pages", n)
			}
		})
	}
}

// A destination of the version before is not sent what it does not know.
func TestOldDestinationGetsOldFrames(t *testing.T) {
	r := newRig(t, quick)
	r.halt(t)
	var err error
	if r.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.ln.Close() })
	for p := range uint64(2048) {
		_ = r.src.g.WriteAt([]byte{byte(p), 1}, memory.GPA(p*page))
	}
	r.send.Streams, r.send.Compress = 1, migrate.CompressZstd
	runs := make(chan []wire.Run, 1)
	go func() { runs <- oldDestination(t, r) }()
	_, err = migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
	if err == nil || !strings.Contains(err.Error(), "seen enough") {
		t.Fatalf("Send = %v", err)
	}
	got := <-runs
	if len(got) == 0 {
		t.Error("no pages came")
	}
	for _, run := range got {
		if run.Dense {
			t.Fatalf("run %+v was sent to a destination of version 1", run)
		}
	}
}

// oldDestination speaks version 1 only, and refuses after the first round.
func oldDestination(t *testing.T, r *rig) (runs []wire.Run) {
	accept := func() *wire.Conn {
		nc, err := r.ln.Accept()
		if err != nil {
			t.Error(err)
			return nil
		}
		t.Cleanup(func() { _ = nc.Close() })
		c := wire.Accept(nc, 5*time.Second)
		var h struct{ Min, Max uint32 }
		if _, p, err := c.Recv(5 * time.Second); err != nil || json.Unmarshal(p, &h) != nil || h.Min != 1 {
			t.Errorf("HELLO %s, %v", p, err)
		}
		say(c, wire.Welcome, dict{"version": 1})
		return c
	}
	control := accept()
	if _, _, err := control.Recv(5 * time.Second); err != nil {
		t.Error(err)
	}
	say(control, wire.Prepared, []byte{})
	data := accept()
	var pages []uint64
	for _, g := range r.src.g.Regions() {
		pages = append(pages, g.Size/page)
	}
	for {
		typ, p, err := data.Recv(5 * time.Second)
		if err != nil || typ == wire.Round {
			break
		}
		if typ != wire.Pages {
			t.Errorf("%v was sent to a destination of version 1", typ)
		}
		more, _, err := wire.DecodePages(p, pages, nil)
		if err != nil {
			t.Error(err)
		}
		runs = append(runs, more...)
	}
	say(control, wire.Refuse, dict{"code": "enough", "message": "seen enough"})
	return runs
}
