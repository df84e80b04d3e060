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
func (v *VM) fillLazily(s *snapshot.Snapshot) error {
	f, err := lazy.Fill(s, v.machine.Regions(), lazy.Options{
		Command:  []string{"/proc/self/exe", VerbFaults},
		Lost:     v.lose,
		LostFile: filepath.Join(v.dir, workload.LostFile),
		Log:      v.log,
	})
	if errors.Is(err, uffd.ErrUnavailable) {
		return fmt.Errorf("restore lazily: %w; or restore without --lazy", err)
	}
	if err == nil {
		v.filled(f)
	}
	return err
}

// filled has every access of ours to the machine's memory wait for f, in a way that
// does not hold up this process, as long as pages are missing.
func (v *VM) filled(f *lazy.Filler) {
	m := v.machine
	m.SetMemoryLate(true)
	v.filler = f
	v.fills.Store(f)
	go func() {
		if f.Wait(context.Background()) == nil {
			m.SetMemoryLate(false)
		}
	}()
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
		Filling:  v.filled,
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

// errFilling is why a VM cannot be paused.
var errFilling = errors.New("not paused: memory of the VM has still to come from where it was before; `hvctl migrate status` there says how much, and whether the link is broken")

// arrive waits, for pauseTimeout at most, until all memory has come of a VM that was
// received: whoever waits for a page cannot be stopped, and the link may be cut.
func (v *VM) arrive(ctx context.Context) error {
	f := v.fills.Load()
	if f == nil || v.cfg.VM.Receive == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, pauseTimeout, errFilling)
	defer cancel()
	return f.Wait(ctx)
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
