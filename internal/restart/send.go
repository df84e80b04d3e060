package restart

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/moves"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/plan"
)

// Move says what goes where. H, Dial, To and Log are set.
type Move struct {
	H     *launch.Handle
	Dial  migrate.Dial
	To    string   // for people, and for the record
	Binds []string // KIND:NAME=ACTION[:ARG]

	Streams  int
	Rate     uint64 // bytes per second; 0: no limit
	Compress migrate.Compress
	Log      *slog.Logger
	// Doubt is called once when the destination does not answer: it is asked on. nil is fine.
	Doubt func()

	progress func(migrate.Report)
}

// askAgain is the time between two questions to a destination that does not answer.
const askAgain = 5 * time.Second

// bootTimeout is how long a VM may take to start at its destination before that is asked
// whether it has.
const bootTimeout = 3 * time.Minute

// Send moves the instance. When it returns nil, the instance runs at the destination and has
// ended here. After an error it runs on here, unless the error wraps migrate.ErrInDoubt: then it
// stands still, and Send called again asks the destination again. Ending ctx calls it off, or, when the
// destination does not answer any more, gives up asking. The report is nil when nothing was begun.
func (m *Move) Send(ctx context.Context) (*migrate.Report, error) {
	dir := m.H.Dir()
	hold, err := commit.TakeHold(dir)
	if err != nil {
		return nil, err
	}
	defer hold.Release()
	journal := commit.File(filepath.Join(dir, commit.SentFile))
	src := &source{h: m.H, hold: hold}
	if err := m.goesOn(ctx); err != nil {
		return nil, err
	}
	if r, err := journal.Load(); err == nil && r.Verdict == commit.IntentRecord {
		return nil, m.settle(ctx, src, journal, migrate.ErrInDoubt)
	}
	p, err := m.Plan(ctx)
	if err == nil {
		err = refusals(p)
	}
	if err != nil {
		return nil, err
	}
	account := moves.Attempt{To: m.To, Began: time.Now().UTC(), Plan: p}
	m.account(account)
	m.progress = func(r migrate.Report) {
		a := account
		a.Report = r
		m.account(a)
	}
	report, err := m.send(ctx, src, journal, p)
	account.Ended, account.Report = time.Now().UTC(), *report
	if err != nil {
		account.Error = err.Error()
	}
	m.account(account)
	return report, err
}

// account writes down what is known of the attempt, for Status.
func (m *Move) account(a moves.Attempt) {
	if err := a.Keep(m.H.Dir()); err != nil && !errors.Is(err, os.ErrNotExist) { // it goes with --rm
		m.Log.Warn("the account of the migration is not written", "err", err)
	}
}

// send carries the plan out.
func (m *Move) send(ctx context.Context, src *source, journal commit.Journal, p plan.Plan) (report *migrate.Report, err error) {
	report = &migrate.Report{Outcome: string(commit.Kept)}
	defer func() {
		if err != nil && report.Reason == "" {
			report.Reason = err.Error()
		}
	}()
	cfg := offered(m.H.Config())
	o, err := m.options(cfg.Rootfs.ImagePath, cfg, p)
	if err != nil {
		return report, err
	}
	var image uint64
	if name := filepath.Base(cfg.Rootfs.ImagePath); p.Action(plan.Layers, name) == plan.Copy {
		if name, image, err = migrate.SendImageFile(ctx, m.Dial, cfg.Rootfs.ImagePath, o); err != nil {
			return report, err
		}
		path := cfg.Rootfs.ImagePath
		cfg.Rootfs.ImagePath = filepath.Join(filepath.Dir(path), name)
		if o, err = m.options(path, cfg, p); err != nil {
			return report, err
		}
	}
	still := time.Now()
	stop := m.H.Client.Pause
	if cfg.Backend == "vm" { // its agent packs
		stop = m.H.Client.Suspend
	}
	if err := stop(ctx); err != nil {
		return report, err
	}
	defer src.close()
	err = m.pack(ctx, src)
	if err == nil {
		err = m.H.Client.Pause(ctx)
	}
	if err == nil {
		err = src.addDisks(m.H.Config().VM.Disks)
	}
	if err == nil {
		report, err = migrate.Send(ctx, src, m.Dial, journal, o)
		report.Layer = src.volumes[0].Size
	}
	report.Image, report.StoodStill = image, time.Since(still)
	if errors.Is(err, migrate.ErrInDoubt) {
		err = m.settle(ctx, src, journal, err)
		report.StoodStill = time.Since(still)
		if err == nil {
			report.Outcome, report.Reason = string(commit.Handed), ""
		}
		return report, err
	}
	return report, m.after(ctx, src, err)
}

// options are what package migrate is told. path is where the image is here.
func (m *Move) options(path string, cfg *workload.Config, p plan.Plan) (o migrate.SendOptions, err error) {
	d := workload.Description{Created: time.Now().UTC(), Config: cfg}
	for i := range cfg.VM.Disks {
		d.Disks = append(d.Disks, workload.SnapshotDisk{Name: diskVolume(i)})
	}
	if d.Rootfs, err = workload.MarkFile(path); err != nil {
		return o, err
	}
	o = migrate.SendOptions{
		VM: m.H.Name(), Peer: m.To, Streams: m.Streams, Rate: m.Rate, Compress: m.Compress, Log: m.Log, Done: true, Progress: m.progress,
		// It stands still from before the first round.
		OnTimeout: migrate.Force, Downtime: time.Minute,
	}
	if o.Description, err = d.Describe(); err != nil {
		return o, err
	}
	if cfg.Backend == "vm" {
		o.Answer = bootTimeout
	}
	o.Plan, err = json.Marshal(p)
	return o, err
}

// pack copies the layer of the instance, which stands still, into a file without a name.
func (m *Move) pack(ctx context.Context, src *source) error {
	f, err := os.CreateTemp("", "hvctl-layer-")
	if err != nil {
		return err
	}
	err = os.Remove(f.Name())
	if err == nil {
		err = m.copyLayer(ctx, f)
	}
	size, serr := f.Seek(0, io.SeekEnd)
	if err = errors.Join(err, serr); err != nil {
		return errors.Join(err, f.Close())
	}
	src.volumes = []migrate.Volume{{Name: layerVolume, Size: uint64(size), File: f}}
	return nil
}

// settle asks the destination until it answers or ctx ends.
func (m *Move) settle(ctx context.Context, src *source, j commit.Journal, err error) error {
	if m.Doubt != nil {
		m.Doubt()
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; it stands still here. Send it to %s again to ask there again; `hvctl migrate resolve` decides", migrate.ErrInDoubt, m.To)
		default:
		}
		err = migrate.Settle(ctx, src, m.Dial, j, migrate.SendOptions{VM: m.H.Name(), Peer: m.To, Log: m.Log})
		if r, lerr := j.Load(); lerr != nil || r.Verdict != commit.IntentRecord {
			return m.after(ctx, src, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(askAgain):
		}
	}
}

// after ends the instance here when it runs elsewhere, and lets it go on when not.
func (m *Move) after(ctx context.Context, src *source, err error) error {
	ctx = context.WithoutCancel(ctx)
	if err != nil {
		if rerr := src.Resume(ctx); rerr != nil {
			return fmt.Errorf("%w; and it stands still here: %w", err, rerr)
		}
		return fmt.Errorf("%w; it goes on here. If it was the destination that gave up, its `hvctl migrate receive` says why", err)
	}
	return m.end(ctx)
}

func (m *Move) end(ctx context.Context) error {
	if err := m.H.Client.Kill(ctx); err != nil && !errors.Is(err, workload.ErrNotRunning) {
		return fmt.Errorf("it runs at %s; here it stands still and has to be killed: %w", m.To, err)
	}
	_, err := m.H.Wait(ctx)
	if errors.Is(err, workload.ErrNotFound) { // it has removed itself
		err = nil
	}
	return err
}

// Resolve is an operator's word on an instance whose migration is in doubt.
func (m *Move) Resolve(ctx context.Context, keep workload.Keep) error {
	hold, err := commit.TakeHold(m.H.Dir())
	if err != nil {
		return err
	}
	defer hold.Release()
	j := commit.File(filepath.Join(m.H.Dir(), commit.SentFile))
	src := &source{h: m.H, hold: hold}
	here := keep == workload.KeepSource
	if err := migrate.Resolve(ctx, src, j, here, migrate.SendOptions{VM: m.H.Name(), Log: m.Log}); err != nil || here {
		return err
	}
	return m.end(ctx)
}

// Doubtful tells whether it is Move that is asked to resolve what is in doubt of h, and not
// the owner of a VM that was to go on elsewhere.
func Doubtful(ctx context.Context, h *launch.Handle) (bool, error) {
	if h.Config().Backend != "vm" {
		return true, nil
	}
	s, err := h.Client.Migration(ctx)
	if err != nil || s.State == workload.MigrationInDoubt || s.State == workload.MigrationServing {
		return false, err
	}
	r, err := commit.File(filepath.Join(h.Dir(), commit.SentFile)).Load()
	return err == nil && r.Verdict == commit.IntentRecord, nil
}

// goesOn refuses a VM that is on its way to go on elsewhere: the record is its owner's.
func (m *Move) goesOn(ctx context.Context) error {
	if m.H.Config().Backend != "vm" {
		return nil
	}
	s, err := m.H.Client.Migration(ctx)
	switch s.State {
	case workload.MigrationGoing, workload.MigrationServing, workload.MigrationInDoubt:
		return fmt.Errorf("%w: it is being migrated to %s; see `hvctl migrate status`", workload.ErrUnsupported, s.To)
	}
	return err
}

// movable refuses what cannot be sent so.
func (m *Move) movable() error {
	if c := m.H.Config(); c.Backend == "vm" && (c.VM.Raw || c.Rootfs.Dir != "") {
		return fmt.Errorf("%w: a VM without hvctl's agent, or without an image", workload.ErrUnsupported)
	}
	st, err := m.H.Instance.State()
	switch {
	case err != nil:
		return err
	case st.Status == workload.Paused:
		return fmt.Errorf("%w: it is paused; resume it first", workload.ErrUnsupported)
	case st.Status != workload.Running:
		return fmt.Errorf("%w: it is %s", workload.ErrNotRunning, st.Status)
	}
	return nil
}

// refusals returns one error for everything that stops the migration.
func refusals(p plan.Plan) error {
	var why []string
	for _, r := range p.Refusals() {
		why = append(why, fmt.Sprintf("%s %s: %s", r.Kind, r.Name, r.Reason))
	}
	if len(why) == 0 {
		return nil
	}
	return fmt.Errorf("%w by the plan: %s", migrate.ErrRefused, strings.Join(why, "; "))
}
