package microvm

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/spare"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/plan"
)

// question is what a source asks of a destination to make its plan.
type question struct {
	Image   string          `json:"image"` // the file's name
	Network string          `json:"network"`
	Ports   []workload.Port `json:"ports,omitempty"`
	CPUs    int             `json:"cpus"`
	Restart bool            `json:"restart,omitempty"` // it is to be started afresh (package restart), which is not for us
	Backend string          `json:"backend,omitempty"` // of what is
	Gap     string          `json:"gap,omitempty"`     // the session by which a VM has come, to learn its gap instead
	Dirs    []wantedDir     `json:"dirs,omitempty"`
}

// Plan implements workload.Migrator.
func (v *VM) Plan(ctx context.Context, r workload.MigrateRequest) (json.RawMessage, error) {
	defer closeDialer(r)
	g, err := v.withAgent()
	if err != nil {
		return nil, err
	}
	dial, err := dialer(r)
	if err != nil {
		return nil, err
	}
	p, err := v.plan(ctx, g, dial, r.Binds)
	if err == nil {
		err = v.notLater(r)
	}
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	if r.AtOnce || migrate.OnTimeout(r.OnTimeout) == migrate.Later {
		p.WarnPostCopy(r.AtOnce)
	}
	return json.Marshal(p)
}

// plan asks the destination and says what will become of everything that the VM
// is bound to. It has no effect.
func (v *VM) plan(ctx context.Context, g *guest, dial migrate.Dial, words []string) (plan.Plan, error) {
	var binds []plan.Bind
	for _, w := range words {
		b, err := plan.ParseBind(w)
		if err != nil {
			return plan.Plan{}, err
		}
		binds = append(binds, b)
	}
	q, err := json.Marshal(question{Image: filepath.Base(v.cfg.Rootfs.ImagePath), Network: v.cfg.Net.Mode, Ports: v.cfg.Net.Publish, CPUs: maxVCPUs(v.cfg), Dirs: v.wantedDirs(binds)})
	if err != nil {
		return plan.Plan{}, err
	}
	b, err := migrate.Inquire(ctx, dial, q, migrate.SendOptions{VM: v.cfg.Name})
	if err != nil {
		return plan.Plan{}, fmt.Errorf("ask the destination: %w", err)
	}
	var f plan.Facts
	if err := json.Unmarshal(b, &f); err != nil {
		return plan.Plan{}, fmt.Errorf("what the destination says of itself: %w", err)
	}
	cpu, err := g.machine.GuestCPU()
	if err != nil {
		return plan.Plan{}, notRunning(err)
	}
	p, err := plan.Make(v.resources(g), planCPU(cpu), f, binds)
	if err != nil {
		return plan.Plan{}, err
	}
	for i, r := range p.Rows {
		why := unable(r)
		if dev := v.shares[r.Name]; (r.Kind == plan.DirRO || r.Kind == plan.DirRW) && dev != nil && dev.Only() != "" {
			why = "a single file of the host that the guest has mounted cannot go along"
		}
		if why != "" {
			p.Rows[i].Action, p.Rows[i].Reason = plan.Refuse, why
		} else if r.Action == plan.Rebind && (r.Kind == plan.DirRO || r.Kind == plan.DirRW) {
			p.Rows[i].Reason = "asked for; what the guest holds is there, and you promise the same content"
		}
	}
	return p, nil
}

// resources lists what the VM is bound to.
func (v *VM) resources(g *guest) []plan.Resource {
	var image uint64
	if st, err := v.image.Stat(); err == nil { // else it cannot be carried, which shows then
		image = uint64(st.Size())
	}
	all := []plan.Resource{
		{Kind: plan.RAM, Name: "ram", Bytes: g.machine.Memory().Now},
		{Kind: plan.Processor, Name: "cpu"},
		{Kind: plan.Limits, Name: "cgroup"},
		{Kind: plan.Env, Name: "environment"},
		{Kind: plan.Stream, Name: "console"},
		{Kind: plan.Vsock, Name: "vsock"},
		{Kind: plan.Layers, Name: filepath.Base(v.cfg.Rootfs.ImagePath), Detail: v.cfg.Image.Ref, Bytes: image},
	}
	sizes := map[string]uint64{}
	for _, d := range volumes(g.machine) {
		sizes[d.Name] = d.Size
	}
	for i, d := range v.cfg.VM.Disks {
		if d.ReadOnly {
			all = append(all, plan.Resource{Kind: plan.RawDisk, Name: d.Path})
			continue
		}
		all = append(all, plan.Resource{Kind: plan.RootDisk, Name: serialOf(i, d), Detail: d.Path, Bytes: sizes[serialOf(i, d)]})
	}
	for _, d := range g.machine.DeviceList() {
		if d.Plugged {
			all = append(all, plan.Resource{Kind: plan.Device, Name: d.ID, Detail: d.Kind})
		}
	}
	for _, m := range v.cfg.Spec.Mounts {
		switch {
		case isShare(m) && slices.Contains(m.Options, "ro"):
			all = append(all, plan.Resource{Kind: plan.DirRO, Name: m.Destination, Detail: m.Source})
		case isShare(m):
			all = append(all, plan.Resource{Kind: plan.DirRW, Name: m.Destination, Detail: m.Source})
		case m.Type == "tmpfs" && !standardMount(m.Destination):
			all = append(all, plan.Resource{Kind: plan.Tmpfs, Name: m.Destination})
		}
	}
	if v.cfg.Net.Attached() {
		all = append(all, plan.Resource{Kind: plan.Network, Name: "eth0", Detail: v.cfg.Net.Mode}, plan.Resource{Kind: plan.TCP, Name: "eth0"})
	}
	for _, p := range v.cfg.Net.Publish {
		all = append(all, plan.Resource{Kind: plan.Port, Name: spare.PortName(p), Detail: fmt.Sprintf("to %d", p.Port)})
	}
	return all
}

// unable returns why a row cannot be carried out by this build, though the rules
// would have it; "" when it can.
func unable(r plan.Row) string {
	switch {
	case r.Action == plan.Refuse:
		return ""
	case (r.Kind == plan.DirRO || r.Kind == plan.DirRW) && (r.Action != plan.Rebind || r.Arg == ""):
		return fmt.Sprintf("a directory of the host that the guest has mounted cannot go along; --bind %s:%s=rebind:PATH says that the destination's PATH has the same content", r.Kind, r.Name)
	case r.Kind == plan.RawDisk:
		return "disks that the guest only reads are not carried along yet"
	case r.Kind == plan.Network && r.Arg != "" && r.Arg != r.Detail:
		return "a guest cannot change to a network of another kind"
	case r.Kind == plan.TCP && r.Action == plan.Drop, (r.Kind == plan.Port || r.Kind == plan.Stream) && r.Action == plan.Ref:
		return fmt.Sprintf("%q is not possible yet", r.Action)
	}
	return ""
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
