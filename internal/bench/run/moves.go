package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/handoff"
	"github.com/hvctl/hvctl/migrate/transport"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// beating is what moves: a program that counts.
var beating = Job{Argv: []string{Program, "beat"}}

// warmBeats are waited for before and after a move: a fifth of a second.
const warmBeats = 100

// mover is one kind of move on one target.
type mover struct {
	kind, target string
	move         func(ctx context.Context, dir string, m *result.Move) error
}

// moves makes every move that a target knows, block by block.
func moves(ctx context.Context, o Options, r *result.Result) error {
	var all []mover
	for _, w := range o.Worlds {
		if b, ok := w.(*Backend); ok && b.Backend.Name() == "vm" {
			all = append(all, mover{result.LiveMigration, w.Name(), b.migrate}, mover{result.Snapshot, w.Name(), b.snapshot})
		}
		if b, ok := w.(*Backend); ok && b.Backend.Name() == "container" && o.Checkpoint != nil {
			all = append(all, mover{result.Checkpoint, w.Name(), o.Checkpoint.move})
		}
		all = append(all, mover{result.Restart, w.Name(), func(ctx context.Context, _ string, m *result.Move) error { return restart(ctx, w, m) }})
	}
	first, done := 0, 0 // the first warms up: CRIU loads modules
	if o.Brief {
		first = 1
	}
	for block := first; block <= o.Moves; block++ {
		before := readPressure()
		for _, mv := range all {
			o.Progress(done, (o.Moves+1-first)*len(all), mv.kind+": "+mv.target, 0)
			m := result.Move{Kind: mv.kind, Target: mv.target, Block: block}
			err := inDirectory(func(dir string) error { return mv.move(ctx, dir, &m) })
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				m.Error = err.Error()
			}
			r.Moves = append(r.Moves, m)
			done++
		}
		r.Machine = append(r.Machine, before.until(readPressure(), "mig", block))
		if err := o.Save(); err != nil {
			return err
		}
	}
	return nil
}

func inDirectory(fn func(dir string) error) error {
	dir, err := os.MkdirTemp("", "hvmove")
	if err != nil {
		return err
	}
	return errors.Join(fn(dir), os.RemoveAll(dir))
}

// restart ends an instance and starts another one: the program begins anew.
func restart(ctx context.Context, w World, m *result.Move) error {
	old, err := open(ctx, w, beating)
	if err != nil {
		return err
	}
	p := follow(old.in)
	if _, _, err := p.beyond(ctx, warmBeats); err != nil {
		return errors.Join(err, old.close())
	}
	begin := time.Now()
	if err := old.close(); err != nil {
		return err
	}
	_, last := p.latest()
	again, err := open(ctx, w, beating)
	if err != nil {
		return err
	}
	_, first, err := follow(again.in).beyond(ctx, 0)
	m.TotalNs, m.StillNs = time.Since(begin).Nanoseconds(), first.Sub(last).Nanoseconds()
	return errors.Join(err, again.close())
}

// migrate moves a VM to another owner on the same host while it runs, over a
// unix socket.
func (b *Backend) migrate(ctx context.Context, dir string, m *result.Move) (err error) {
	source, err := open(ctx, b, beating)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.close()) }()
	p := follow(source.in)
	if _, _, err := p.beyond(ctx, warmBeats); err != nil {
		return err
	}
	socket := filepath.Join(dir, "s")
	original := source.handle.Config()
	cfg := &workload.Config{
		ID: instance.NewID(), StopTimeoutSeconds: original.StopTimeoutSeconds,
		Spec: &specs.Spec{Version: specs.Version, Process: &specs.Process{}}, // the guest's comes with it
		VM: workload.VM{Receive: &workload.Receive{
			Endpoint: workload.Endpoint{Address: "unix:" + socket}, Images: filepath.Dir(original.Rootfs.ImagePath),
		}},
	}
	rctx, cancel := context.WithTimeout(ctx, instanceTimeout)
	defer cancel()
	type arrival struct {
		l   *Living
		err error
	}
	arrived := make(chan arrival, 1)
	go func() {
		l, err := b.launch(rctx, cfg, time.Now())
		arrived <- arrival{l, err}
	}()
	for {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		select {
		case a := <-arrived:
			if a.err == nil {
				a.err = errors.Join(errors.New("it started without a VM"), a.l.remove(context.WithoutCancel(ctx)))
			}
			return fmt.Errorf("the receiving owner: %w", a.err)
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			cancel()
			<-arrived
			return context.Cause(ctx)
		}
	}
	to := workload.Endpoint{Address: "unix:" + socket}
	dialer, err := lendDialer(to.Address)
	var report json.RawMessage
	begin := time.Now()
	if err == nil {
		report, err = source.handle.Migrate(ctx, workload.MigrateRequest{To: to, Dialer: dialer, OnTimeout: string(migrate.Force)})
		_ = dialer.Close()
	}
	m.TotalNs = time.Since(begin).Nanoseconds()
	if err != nil {
		cancel()
		if a := <-arrived; a.err == nil {
			err = errors.Join(err, a.l.remove(context.WithoutCancel(ctx)))
		}
		return err
	}
	m.Bytes = sentBytes(report)
	a := <-arrived
	if a.err != nil {
		return fmt.Errorf("the receiving owner: %w", a.err)
	}
	there := newSession(rctx, func() {}, b.Name(), a.l)
	defer func() { err = errors.Join(err, there.close()) }()
	before, _ := p.latest()
	after, _, err := follow(there.in).beyond(ctx, before.N+warmBeats)
	m.StillNs, m.Kept = after.GapNs, after.N > before.N
	return err
}

// lendDialer returns what a VM's owner has its connections to address made by, as
// `hvctl migrate send` does: it makes none itself. The goroutine ends when the caller
// and the owner have closed it.
func lendDialer(address string) (*os.File, error) {
	here, there, err := handoff.Pair()
	if err != nil {
		return nil, err
	}
	go func() {
		_ = transport.ServeDial(there, address)
		_ = there.Close()
	}()
	return here, nil
}

// sentBytes adds up what a report (migrate.Report, as JSON) says of its rounds.
func sentBytes(report json.RawMessage) uint64 {
	type round struct {
		Bytes uint64 `json:"bytes"`
	}
	var r struct {
		Rounds []round `json:"rounds"`
		Final  round   `json:"final"`
		State  uint64  `json:"state_bytes"`
	}
	if err := json.Unmarshal(report, &r); err != nil {
		return 0
	}
	n := r.Final.Bytes + r.State
	for _, x := range r.Rounds {
		n += x.Bytes
	}
	return n
}

// snapshot writes a VM down, ends it, and lets a copy go on from the file.
func (b *Backend) snapshot(ctx context.Context, dir string, m *result.Move) (err error) {
	source, err := open(ctx, b, beating)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.close()) }()
	p := follow(source.in)
	if _, _, err := p.beyond(ctx, warmBeats); err != nil {
		return err
	}
	begin := time.Now()
	report, err := source.handle.Snapshot(ctx, dir, nil)
	if err != nil {
		return err
	}
	m.Bytes = report.MemoryBytes + report.StateBytes
	cfg := *source.handle.Config()
	spec := *cfg.Spec
	cfg.ID, cfg.Name, cfg.Spec = instance.NewID(), "", &spec
	cfg.Net.MAC = ""
	cfg.VM.Restore = &workload.Restore{File: filepath.Join(dir, workload.SnapshotFile)}
	if err := source.close(); err != nil {
		return err
	}
	before, last := p.latest()
	rctx, cancel := context.WithTimeout(ctx, instanceTimeout)
	l, err := b.launch(rctx, &cfg, time.Now())
	if err != nil {
		cancel()
		return err
	}
	again := newSession(rctx, cancel, b.Name(), l)
	defer func() { err = errors.Join(err, again.close()) }()
	t, first, err := follow(again.in).beyond(ctx, 0)
	m.TotalNs, m.StillNs = time.Since(begin).Nanoseconds(), first.Sub(last).Nanoseconds()
	m.Kept = t.N > 0 && t.N >= before.N-warmBeats // what was said after the snapshot is not remembered
	return err
}
