package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// qemuTarget moves a guest between two processes of QEMU's microvm machine, with
// the devices of ours: a serial port and an entropy device.
type qemuTarget struct{ o Options }

func (t *qemuTarget) name() string { return "qemu/tcp" }

const qemuPort = "4444"

func (t *qemuTarget) arguments(g guest, monitor string) []string {
	return []string{
		"-M", "microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on,memory-backend=ram",
		"-cpu", "host", "-smp", fmt.Sprint(t.o.CPUs), "-m", fmt.Sprint(t.o.MemoryMiB),
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,share=on", t.o.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "file:/dev/null",
		"-kernel", g.kernel, "-initrd", g.initrd, "-append", g.cmdline,
		"-device", "virtio-rng-device",
		"-qmp", "unix:" + monitor + ",server=on,wait=off",
	}
}

func (t *qemuTarget) start(ctx context.Context, l *link, g guest) (_ pair, err error) {
	v := &qemuPair{}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.words())
			v.close()
		}
	}()
	from, to := filepath.Join(t.o.Dir, "from.qmp"), filepath.Join(t.o.Dir, "to.qmp")
	if v.to, err = launch(ctx, l.to, t.o.QEMU, append(t.arguments(g, to), "-incoming", "tcp:"+destIP+":"+qemuPort)...); err != nil {
		return nil, err
	}
	if v.from, err = launch(ctx, l.from, t.o.QEMU, t.arguments(g, from)...); err != nil {
		return nil, err
	}
	if v.monitor, err = dialQMP(ctx, from); err != nil {
		return nil, err
	}
	for _, c := range []struct {
		name string
		args any
	}{
		{"migrate-set-capabilities", map[string]any{"capabilities": []any{
			map[string]any{"capability": "events", "state": true}, map[string]any{"capability": "auto-converge", "state": true},
		}}},
		// The default limit of 128 MiB/s is put out of the way.
		{"migrate-set-parameters", map[string]any{"downtime-limit": t.o.Downtime.Milliseconds(), "max-bandwidth": 1 << 40}},
	} {
		if _, err = v.monitor.call(ctx, c.name, c.args); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// qemuPair is the two processes.
type qemuPair struct {
	processes
	monitor *qmp
}

func (v *qemuPair) migrate(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if _, err := v.monitor.call(ctx, "migrate", map[string]any{"uri": "tcp:" + destIP + ":" + qemuPort}); err != nil {
		return err
	}
	for {
		e, err := v.monitor.event(ctx, "MIGRATION")
		if err != nil {
			return err
		}
		var status struct{ Status string }
		if err := json.Unmarshal(e, &status); err != nil {
			return err
		}
		switch status.Status {
		case "completed":
			// What is asked after it is over costs it nothing.
		case "failed", "cancelled":
			return fmt.Errorf("the migration has %s: %w", status.Status, v.words())
		default:
			continue
		}
		return nil
	}
}

// account asks the source what it counted.
func (v *qemuPair) account(ctx context.Context, s *Sample) error {
	b, err := v.monitor.call(ctx, "query-migrate", nil)
	if err != nil {
		return err
	}
	var info struct {
		Downtime int64
		RAM      struct {
			Syncs int `json:"dirty-sync-count"`
		}
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return err
	}
	s.VMMDowntimeNs = info.Downtime * int64(time.Millisecond)
	s.Rounds = info.RAM.Syncs
	return nil
}

func (v *qemuPair) close() {
	if v.monitor != nil {
		v.monitor.close()
	}
	v.end()
}
