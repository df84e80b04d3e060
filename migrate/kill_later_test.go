package migrate_test

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/lazy"
	"github.com/hvctl/hvctl/migrate/transport"
	"github.com/hvctl/hvctl/migrate/wire"
)

// With MIGRATE_LATER the processes of kill_test.go move the guest by post-copy.
// Their folder has two files more:
//
//	whole   the destination has read all of the memory, and it was the source's
//	lost    the destination's guest cannot go on, and why
const laterEnv = "MIGRATE_LATER=1"

func later() bool { return os.Getenv("MIGRATE_LATER") != "" }

// serveFaults is the handler's process.
func serveFaults() int {
	if err := lazy.Serve(os.Args[1], slog.New(slog.DiscardHandler)); err != nil {
		return 1
	}
	return 0
}

// takeLater makes the destination one whose memory comes when it is touched, and
// have it all touched when the guest runs.
func takeLater(dir string, m *machine, l net.Listener, o *migrate.ReceiveOptions) {
	var filler *lazy.Filler
	o.Pull = &lazy.Remote{
		Options: lazy.Options{
			Command: []string{"/usr/bin/env", "MIGRATE_CHILD=faults", os.Args[0]}, Log: slog.New(slog.DiscardHandler),
			Lost: func(error) { m.halt() }, LostFile: filepath.Join(dir, "lost"),
		},
		Listener: func() (*os.File, error) { return transport.File(l) },
		Address:  "unix:" + filepath.Join(dir, "dst"),
		Wait:     2 * time.Second,
		Filling:  func(f *lazy.Filler) { filler = f },
	}
	o.Drop = func(migrate.Destination) {
		m.drop()
		if filler != nil {
			_ = filler.Close()
		}
	}
	m.later = func(hash string) {
		go func() {
			for { // until the guest runs
				m.mu.Lock()
				runs := m.running
				m.mu.Unlock()
				if runs {
					break
				}
				time.Sleep(time.Millisecond)
			}
			if m.hash() != hash {
				complain(dir, "the guest has read memory that is not the source's")
				return
			}
			_ = os.WriteFile(filepath.Join(dir, "whole"), nil, 0o600)
		}()
	}
}

// Either side is killed while memory follows: one runner, or a guest that is lost
// with the reason, and never one on other memory than the source's.
func TestKilledProcessesInPostCopyLeaveOneRunnerOrNone(t *testing.T) {
	for _, victim := range []string{"source", "destination"} {
		for _, at := range []struct {
			typ wire.Type
			nth int
			f   fault
		}{
			{wire.Missing, 0, ""},
			{wire.Listen, 0, ""},
			{wire.Listen, 0, drop},
			{wire.Missing, 2, ""},
			{wire.Pages, 3, ""},
			{wire.Pages, 3, drop},
			{wire.Ready, 0, ""},
			{wire.Go, 0, ""},
			{wire.Go, 0, drop},
			{wire.Running, 0, ""},
			{wire.Running, 0, drop},
			{wire.Drained, 0, ""},
			{wire.Drained, 0, drop},
		} {
			t.Run(fmt.Sprintf("%s at %v %d %s", victim, at.typ, at.nth, at.f), func(t *testing.T) {
				t.Parallel()
				dir, handed := kill(t, victim, at.typ, at.nth, at.f, laterEnv)
				if !handed || victim == "destination" {
					return
				}
				await(t, "the guest has all of its memory, or is lost", func() bool {
					_, whole := os.Stat(filepath.Join(dir, "whole"))
					why, lost := os.ReadFile(filepath.Join(dir, "lost"))
					if lost == nil {
						t.Logf("%s", why)
					}
					return whole == nil || lost == nil
				})
			})
		}
	}
}
