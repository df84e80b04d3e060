package microvm

import (
	"errors"
	"slices"
	"time"

	"github.com/hvctl/hvctl/internal/machine"
)

// Close stops what still runs and frees everything. A guest with disks of its
// own gets time to sync them and power off, when its workload has ended.
func (v *VM) Close() error {
	v.closing.Do(func() { v.err = v.close() })
	return v.err
}

func (v *VM) close() error {
	var errs []error
	if v.cfg.VM.Timeline {
		errs = append(errs, v.times.save(v.dir))
	}
	stuck := false
	if g := v.live.Load(); g != nil {
		if v.begun && (v.pod || v.writesDisks() || v.writesShares()) {
			select {
			case <-g.ended:
			case <-time.After(offTimeout):
				v.log.Warn("the guest did not power off in time", "timeout", offTimeout)
			}
		}
		if v.serial != nil {
			v.serial.abandon()
		}
		g.stop(errClosed)
		select {
		case <-g.ended:
		case <-g.stuck:
			stuck = true
			errs = append(errs, errStuck)
		}
		if !stuck && g.debugged != nil {
			<-g.debugged
		}
		if g.session != nil {
			<-g.serving
		}
	}
	if s := v.sent.Load(); s != nil {
		s.finish()
	}
	if stuck { // what it uses goes with the process
		v.machine, v.filler = nil, nil
	}
	return errors.Join(append(errs, v.release())...)
}

// release frees what surround and machine.New made.
func (v *VM) release() error {
	var errs []error
	if v.machine != nil {
		errs = append(errs, v.bounded(v.machine.Close))
	}
	if v.net != nil {
		errs = append(errs, v.net.Close())
	}
	if v.removal != nil {
		errs = append(errs, v.removal.Close())
	}
	if v.gdb != nil {
		errs = append(errs, v.gdb.Close())
	}
	if v.console != nil {
		errs = append(errs, v.console.Close())
	}
	if v.image != nil {
		errs = append(errs, v.image.Close())
	}
	if v.filler != nil && !slices.ContainsFunc(errs, func(err error) bool { return errors.Is(err, errStuck) }) {
		errs = append(errs, v.filler.Close())
	}
	if v.layer != nil {
		errs = append(errs, v.layer.Close())
	}
	v.layer = nil
	v.machine, v.filler, v.net, v.removal, v.console, v.image = nil, nil, nil, nil, nil, nil
	return errors.Join(errs...)
}

// bounded runs end, which may find that host I/O does not return; then it goes
// on by itself, as long as the process does.
func (v *VM) bounded(end func() error) error {
	done := make(chan error, 1)
	go func() { done <- end() }()
	select {
	case err := <-done:
		return err
	case <-time.After(v.endTimeout):
		return errStuck
	}
}

// writesDisks reports whether the guest can have unsynced data on a disk.
func (v *VM) writesDisks() bool {
	for _, d := range v.cfg.VM.Disks {
		if !d.ReadOnly {
			return true
		}
	}
	return v.machine != nil && slices.ContainsFunc(v.machine.DeviceList(), func(d machine.DeviceInfo) bool { return d.Plugged && d.Kind == "blk" })
}
