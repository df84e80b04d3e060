package microvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/spare"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/plan"
)

// maxAsked bounds the ports and processors that a source can ask for.
const maxAsked = 256

// facts tells a source what this host has for its VM. The question comes from
// outside: it can learn whether a file of the image folder is there, and whether
// a port is free, nothing else of this host's files and ports.
func (v *VM) facts(own *workload.Config) func(context.Context, json.RawMessage) (json.RawMessage, error) {
	return func(ctx context.Context, raw json.RawMessage) (json.RawMessage, error) {
		var q question
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			return nil, err
		}
		if q.Restart {
			return nil, errors.New("a VM that goes on is waited for here, not an instance that is started afresh: use `hvctl migrate receive --mode restart` there")
		}
		if len(q.Dirs) > maxWanted {
			return nil, fmt.Errorf("%d directories; at most %d are answered for", len(q.Dirs), maxWanted)
		}
		if len(q.Ports) > maxAsked || q.CPUs < 1 || q.CPUs > maxAsked {
			return nil, fmt.Errorf("%d ports and %d processors; at most %d are answered for", len(q.Ports), q.CPUs, maxAsked)
		}
		if q.Gap != "" {
			return v.tellGap(ctx, q.Gap)
		}
		f := plan.Facts{Networks: []string{workload.NetUser}}
		if os.Geteuid() == 0 {
			f.Networks = append(f.Networks, workload.NetBridge)
		}
		var err, derr, cerr error
		f.Memory, err = spare.Memory()
		f.Disk, derr = spare.Disk(own.DataDir)
		cpu, cerr := machine.HostCPU(v.host.KVM, q.CPUs)
		if err := errors.Join(err, derr, cerr); err != nil {
			return nil, err
		}
		f.CPU = planCPU(cpu)
		if f.Image, err = spare.Image(own.VM.Receive.Images); err != nil {
			return nil, err
		}
		if name := filepath.Base(q.Image); name == q.Image {
			if _, err := os.Stat(filepath.Join(own.VM.Receive.Images, name)); err == nil {
				f.Images = append(f.Images, name)
			}
		}
		for _, d := range q.Dirs {
			if why := unfit(own.VM.Receive.Lent, d); why == "" {
				f.Paths = append(f.Paths, d.Path)
			} else {
				if f.Unfit == nil {
					f.Unfit = map[string]string{}
				}
				f.Unfit[d.Path] = why
			}
		}
		if own.Net.Publish == nil { // else the user has chosen ports for what comes
			f.Busy = spare.Busy(q.Ports)
		}
		return json.Marshal(f)
	}
}

// planCPU is a processor as plans describe it. A TSC is not scaled here.
func planCPU(c machine.CPU) plan.CPU {
	return plan.CPU{Vendor: c.Vendor, Features: c.Words, PhysBits: c.PhysBits, XSave: c.XSave, TSCkHz: c.TSCkHz}
}
