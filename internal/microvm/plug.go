package microvm

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/blk"
	virtionet "github.com/hvctl/hvctl/virtio/net"
)

var _ workload.Plugger = (*VM)(nil)

// Devices implements workload.Plugger.
func (v *VM) Devices(context.Context) (out []workload.Device, err error) {
	g, err := v.running()
	if err != nil {
		return nil, err
	}
	for _, d := range g.machine.DeviceList() {
		out = append(out, workload.Device(d))
	}
	return out, nil
}

// Plug implements workload.Plugger.
func (v *VM) Plug(ctx context.Context, r workload.PlugRequest) (workload.Device, error) {
	made := false
	defer func() {
		for _, f := range r.Files {
			if !made {
				_ = f.Close()
			}
		}
	}()
	g, err := v.running()
	if err == nil && v.doubt.Load() != nil {
		err = errDoubt
	}
	if err != nil {
		return workload.Device{}, err
	}
	id := r.ID
	if id == "" {
		id = freeID(g.machine.DeviceList())
	}
	d, err := plugged(id, r)
	if err != nil {
		return workload.Device{}, err
	}
	err = notRunning(g.machine.Plug(ctx, d))
	made = err == nil
	if err == nil && r.Disk != nil && g.session != nil {
		if err = g.session.Plug(ctx, guestproto.Plug{Serial: id}); err != nil {
			err = fmt.Errorf("device %s: the guest has it, but its agent made no file for it in the workload's /dev: %w", id, err)
		}
	}
	for _, have := range g.machine.DeviceList() {
		if have.ID == id && have.Plugged {
			made = true // also when it waits for a driver
			return workload.Device(have), err
		}
	}
	if err == nil {
		err = fmt.Errorf("device %s: the guest has given it back at once", id)
	}
	return workload.Device{}, err
}

// plugged is a device of the files that came with the request.
func plugged(id string, r workload.PlugRequest) (machine.Device, error) {
	if len(r.Files) != r.FileCount() {
		return machine.Device{}, fmt.Errorf("%d open files for the device, not %d", len(r.Files), r.FileCount())
	}
	if n := r.Net; n != nil {
		values := map[string]string{"mac": n.MAC}
		if n.MTU != 0 {
			values["mtu"] = fmt.Sprint(n.MTU)
		}
		return machine.Device{Kind: "net", Args: virtio.Args{ID: id, Values: values, Files: map[string]*os.File{virtionet.QueueFile(0): r.Files[0]}}}, nil
	}
	spec := *r.Disk
	if spec.Overlay != "" { // its file did not come along
		return machine.Device{}, fmt.Errorf("%w: a disk with an overlay is there from the start or not at all; plug the image in with ro", workload.ErrUnsupported)
	}
	spec.Engine = string(blk.EnginePlain) // a confined process makes no io_uring
	d := disk(id, spec)
	d.Args.Files = map[string]*os.File{"image": r.Files[0]}
	if len(r.Files) > 1 {
		d.Args.Files["direct"] = r.Files[1]
	}
	return d, nil
}

// freeID is the first of plug0, plug1, ... that no device has.
func freeID(have []machine.DeviceInfo) string {
	for i := 0; ; i++ {
		id := fmt.Sprintf("plug%d", i)
		if !slices.ContainsFunc(have, func(d machine.DeviceInfo) bool { return d.ID == id }) {
			return id
		}
	}
}

// Unplug implements workload.Plugger.
func (v *VM) Unplug(ctx context.Context, r workload.UnplugRequest) error {
	g, err := v.running()
	if err == nil && v.doubt.Load() != nil {
		err = errDoubt
	}
	if err != nil {
		return err
	}
	if err := g.machine.Unplug(ctx, r.ID, r.Force); err != nil {
		return notRunning(err)
	}
	if g.session != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clockTimeout)
		defer cancel()
		if err := g.session.Plug(ctx, guestproto.Plug{Serial: r.ID, Gone: true}); err != nil {
			v.log.Debug("the device file of an unplugged disk may be left", "dev", r.ID, "err", err)
		}
	}
	return nil
}
