package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/hostnet"
	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/handoff"
)

var _ workload.Inheritor = (*VM)(nil)

// heir is the machine of a new owner before and after the guest is its own.
type heir struct {
	*machine.Machine
	v     *VM
	guest *guest // set by Resume
}

// TakeOver implements workload.Inheritor.
func (v *VM) TakeOver(ctx context.Context, f *os.File, quiet func() error, io workload.Stdio) (workload.Process, bool, error) {
	v.times.mark("vmm start")
	v.heir = true
	link, err := handoff.NewLink(f)
	if err != nil {
		return nil, false, err
	}
	defer link.Close()
	h := &heir{v: v}
	err = handoff.Take(ctx, link, func(ctx context.Context, o handoff.Offer) (handoff.Successor, error) {
		return h, h.build(ctx, o, io)
	}, v.times.mark)
	if err != nil {
		if v.net != nil {
			v.net.Abandon()
			v.net = nil
		}
		return nil, false, errors.Join(err, v.Close())
	}
	v.times.mark("taken over")
	if v.net != nil {
		err = v.net.Serve()
	}
	if err == nil {
		err = quiet()
	}
	if err != nil {
		return nil, true, errors.Join(err, v.Close())
	}
	p, err := v.take(ctx, h.guest, io, func(ctx context.Context, s *agent.Session) error {
		return s.SyncClock(ctx, time.Now())
	})
	if err != nil {
		return nil, true, errors.Join(v.explain(h.guest, err), v.Close())
	}
	v.begun = true
	return p, true, nil
}

// build makes the machine around what was handed over.
func (h *heir) build(ctx context.Context, o handoff.Offer, io workload.Stdio) (err error) {
	v := h.v
	files := inheritance{}
	for _, f := range o.Files {
		files[f.Name] = append(files[f.Name], f.File)
	}
	defer files.close()
	var l legacy
	if err := json.Unmarshal(o.Description, &l); err != nil {
		return fmt.Errorf("what the old owner says of the VM: %w", err)
	}
	if len(files[memoryFile]) != 1 {
		return errors.New("the old owner did not hand over the guest's memory")
	}
	if l.Net != nil {
		if v.net, err = hostnet.Inherit(v.bridgeOptions(), *l.Net, files.take(netFile)); err != nil {
			return err
		}
	}
	v.inherited = files
	c, err := v.surround(ctx, io)
	if err != nil {
		return err
	}
	v.inherited = nil
	c.HugePages = l.HugePages
	c.Restore = &machine.Restore{Memory: files[memoryFile][0], FollowTime: true}
	if v.machine, err = machine.New(c); err != nil {
		return err
	}
	delete(files, memoryFile)
	h.Machine = v.machine
	return nil
}

// Resume implements handoff.Successor: the guest is ours.
func (h *heir) Resume(ctx context.Context) error {
	h.v.mustEnter()
	g, err := h.v.converse()
	if err != nil {
		return err
	}
	h.guest = g
	return h.Machine.Resume(ctx)
}

// inheritance are the open files that an old owner has handed over, by name.
type inheritance map[string][]*os.File

func (i inheritance) take(name string) []*os.File {
	f := i[name]
	delete(i, name)
	return f
}

func (i inheritance) close() {
	for _, files := range i {
		for _, f := range files {
			_ = f.Close()
		}
	}
}

// equip gives disks the open files that were handed over for them.
func (i inheritance) equip(devs []machine.Device) []machine.Device {
	for n, d := range devs {
		if f := i[diskFile+d.Args.ID]; d.Kind == "blk" && len(f) == 1 {
			devs[n].Args.Files = map[string]*os.File{"image": f[0]}
			delete(i, diskFile+d.Args.ID)
		}
	}
	return devs
}
