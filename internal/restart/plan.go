package restart

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/spare"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/plan"
)

// portName is how a plan calls a published port.
func portName(p workload.Port) string { return spare.PortName(p) }

// Plan asks the destination, and says what will become of everything that the instance is
// bound to. It has no effect.
func (m *Move) Plan(ctx context.Context) (plan.Plan, error) {
	if err := m.movable(); err != nil {
		return plan.Plan{}, err
	}
	var binds []plan.Bind
	for _, w := range m.Binds {
		b, err := plan.ParseBind(w)
		if err != nil {
			return plan.Plan{}, err
		}
		binds = append(binds, b)
	}
	c := m.H.Config()
	ask := question{Restart: true, Image: filepath.Base(c.Rootfs.ImagePath), Network: c.Net.Mode, Ports: c.Net.Publish}
	if c.Backend == "vm" {
		ask.Backend = c.Backend
	}
	q, err := json.Marshal(ask)
	if err != nil {
		return plan.Plan{}, err
	}
	b, err := migrate.Inquire(ctx, m.Dial, q, migrate.SendOptions{VM: m.H.Name()})
	if err != nil {
		return plan.Plan{}, fmt.Errorf("ask the destination: %w", err)
	}
	var f plan.Facts
	if err := json.Unmarshal(b, &f); err != nil {
		return plan.Plan{}, fmt.Errorf("what the destination says of itself: %w", err)
	}
	all, err := m.resources(ctx)
	if err != nil {
		return plan.Plan{}, err
	}
	p, err := plan.Make(all, plan.CPU{}, f, binds)
	if err != nil {
		return plan.Plan{}, err
	}
	p.Fresh()
	for i, r := range p.Rows {
		switch {
		case r.Action == plan.Refuse:
		case r.Kind == plan.DirRO || r.Kind == plan.DirRW:
			p.Rows[i].Action, p.Rows[i].Reason = plan.Refuse, "a directory of the host cannot go along"
		case r.Kind == plan.Port && r.Action == plan.Ref, r.Kind == plan.Stream && r.Action == plan.Ref, r.Kind == plan.TCP && r.Action == plan.Move:
			p.Rows[i].Action, p.Rows[i].Reason = plan.Refuse, fmt.Sprintf("%q is not possible for a workload that is started afresh", r.Action)
		case r.Kind == plan.RawDisk:
			p.Rows[i].Action, p.Rows[i].Reason = plan.Refuse, "disks that the guest only reads, or in other formats than raw, are not carried along"
		case r.Kind == plan.Layer && r.Bytes > f.Memory: // it is in memory there, too
			p.Rows[i].Action, p.Rows[i].Reason = plan.Refuse, fmt.Sprintf("needs %d MiB of memory, %d are free at the destination", r.Bytes>>20, f.Memory>>20)
		}
	}
	return p, nil
}

// resources lists what the instance is bound to.
func (m *Move) resources(ctx context.Context) ([]plan.Resource, error) {
	c := m.H.Config()
	var layer counter
	if err := m.copyLayer(ctx, &layer); err != nil {
		return nil, err
	}
	image, err := os.Stat(c.Rootfs.ImagePath)
	if err != nil {
		return nil, err
	}
	all := []plan.Resource{
		{Kind: plan.RAM, Name: "memory"},
		{Kind: plan.Layers, Name: filepath.Base(c.Rootfs.ImagePath), Detail: c.Image.Ref, Bytes: uint64(image.Size())},
		{Kind: plan.Layer, Name: layerVolume, Bytes: uint64(layer)},
		{Kind: plan.Env, Name: "environment"},
		{Kind: plan.Limits, Name: "cgroup"},
		{Kind: plan.Stream, Name: "console"},
	}
	for _, name := range beyond(c) {
		all = append(all, plan.Resource{Kind: plan.Privilege, Name: name})
	}
	if l := c.Spec.Linux; l != nil {
		for _, d := range l.Devices {
			all = append(all, plan.Resource{Kind: plan.Device, Name: d.Path})
		}
	}
	if c.Backend == "vm" {
		more, err := m.machineResources(ctx)
		if err != nil {
			return nil, err
		}
		all[0].Bytes = c.Res.MemoryBytes
		all = append(all, more...)
	}
	for _, mnt := range c.Spec.Mounts {
		kind := plan.DirRW
		switch {
		case mnt.Type == "tmpfs":
			kind = plan.Tmpfs
		case slices.Contains(mnt.Options, "ro"):
			kind = plan.DirRO
		}
		all = append(all, plan.Resource{Kind: kind, Name: mnt.Destination, Detail: mnt.Source})
	}
	if c.Net.Attached() {
		all = append(all, plan.Resource{Kind: plan.Network, Name: "eth0", Detail: c.Net.Mode}, plan.Resource{Kind: plan.TCP, Name: "eth0"})
	}
	for _, p := range c.Net.Publish {
		all = append(all, plan.Resource{Kind: plan.Port, Name: portName(p), Detail: fmt.Sprintf("to %d", p.Port)})
	}
	return all, nil
}

// counter counts what is written.
type counter uint64

// Write implements io.Writer.
func (n *counter) Write(b []byte) (int, error) {
	*n += counter(len(b))
	return len(b), nil
}

// copyLayer writes the packed writable layer to w.
func (m *Move) copyLayer(ctx context.Context, w io.Writer) error {
	s, err := m.H.Copy(ctx, control.CopyRequest{Path: "/", Layer: true})
	if err != nil {
		return err
	}
	var why bytes.Buffer
	exit, err := s.Copy(nil, w, &why)
	if text := strings.TrimSpace(why.String()); text != "" {
		return fmt.Errorf("%q", text)
	}
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("packing the writable layer ended with status %d", exit.Code)
	}
	return err
}
