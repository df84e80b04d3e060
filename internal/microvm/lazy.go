package microvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/uffd"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/hvctl/hvctl/migrate/lazy"
	"github.com/hvctl/hvctl/migrate/snapshot"
	"github.com/hvctl/hvctl/migrate/transport"
)

// VerbFaults has the owner's program serve the faults of a VM that is restored
// lazily; an argument follows (package lazy).
const VerbFaults = "serve-faults"

// fillLazily has the machine's memory come from s as it is touched.
func (v *VM) fillLazily(s *snapshot.Snapshot) (err error) {
	v.filler, err = lazy.Fill(s, v.machine.Regions(), lazy.Options{
		Command:  []string{"/proc/self/exe", VerbFaults},
		Lost:     v.lose,
		LostFile: filepath.Join(v.dir, workload.LostFile),
		Log:      v.log,
	})
	if errors.Is(err, uffd.ErrUnavailable) {
		return fmt.Errorf("restore lazily: %w; or restore without --lazy", err)
	}
	v.fills.Store(v.filler)
	return err
}

// pages has memory come later from the VM's former owner (post-copy), which connects
// to l at e.
func (v *VM) pages(e workload.Endpoint, l net.Listener) *lazy.Remote {
	return &lazy.Remote{
		Options: lazy.Options{
			Command:  []string{"/proc/self/exe", VerbFaults},
			Lost:     v.lose,
			LostFile: filepath.Join(v.dir, workload.LostFile),
			Log:      v.log,
		},
		Address: e.Address, Identity: e.Identity, Allow: e.Allow,
		Listener: func() (*os.File, error) { return transport.File(l) },
		Filling: func(f *lazy.Filler) {
			v.filler = f
			v.fills.Store(f)
		},
	}
}

// lose ends a VM whose memory cannot be had any more.
func (v *VM) lose(why error) {
	v.log.Error("the VM cannot go on", "err", why)
	v.lost.Store(&why)
	if g := v.live.Load(); g != nil {
		g.stop(why)
	}
}

// settle reads what a lazy restore or a post-copy has not read yet: until then the holes of the
// memory file are no zeroes.
func (v *VM) settle(ctx context.Context) error {
	if v.filler == nil {
		return nil
	}
	return v.filler.Complete(ctx)
}

// filling tells whether pages may still come from elsewhere, so that a hole in
// the memory is no zeroes.
func (v *VM) filling() bool {
	f := v.fills.Load()
	return f != nil && !f.Done()
}

// reason is why a machine was ended when it was nobody's wish; nil: it was.
func reason(e machine.End) error {
	for _, is := range []error{lazy.ErrLost, migrate.ErrLost, handoff.ErrLost, handoff.ErrStopped} {
		if e.Reason == machine.Killed && errors.Is(e.Err, is) {
			return e.Err
		}
	}
	return nil
}
