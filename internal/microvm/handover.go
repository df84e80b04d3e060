package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/hostnet"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/handoff"
)

var _ workload.Upgrader = (*VM)(nil)

// legacy is what a new owner needs to know of a VM beside its configuration. The
// files that go along have the names below; disks have their serial numbers after
// diskFile.
type legacy struct {
	HugePages bool            `json:"hugePages,omitempty"`
	Net       *hostnet.Handed `json:"net,omitempty"`
}

const (
	memoryFile = "memory"
	netFile    = "net"
	diskFile   = "disk:"
)

// HandOver implements workload.Upgrader.
func (v *VM) HandOver(ctx context.Context, s workload.Successor) (json.RawMessage, error) {
	g, err := v.withAgent()
	if err != nil {
		return nil, err
	}
	if err := v.mayHandOver(g); err != nil {
		return nil, err
	}
	if err := v.settle(ctx); err != nil {
		return nil, err
	}
	offer, done, err := v.offer(g)
	if err != nil {
		return nil, err
	}
	defer done()
	link, err := handoff.NewLink(s.Link)
	if err != nil {
		return nil, err
	}
	defer link.Close()
	report, err := handoff.Give(ctx, link, g.machine, offer, handoff.Options{Kill: s.Kill})
	if err != nil {
		if errors.Is(err, handoff.ErrLost) || errors.Is(err, handoff.ErrStopped) {
			g.stop(err)
		}
		return nil, err
	}
	v.left.Store(true)
	return json.Marshal(report)
}

// mayHandOver refuses what another process cannot go on with.
func (v *VM) mayHandOver(g *guest) error {
	var why string
	switch {
	case v.host.KVM != nil:
		why = "a VM in a container, whose devices its owner cannot open"
	case g.machine.MemoryFD() < 0:
		why = "a VM whose memory is mapped from a snapshot; `hvctl restore --copy` and --lazy make one that can be"
	case v.net != nil && v.cfg.Net.Mode != workload.NetBridge:
		why = fmt.Sprintf("a VM on the network %s, which ends with the old owner; only the bridge is handed over", v.cfg.Net.Mode)
	case v.cfg.Rootfs.Dir != "":
		why = "a VM whose root is a directory of the host"
	default:
		if err := v.mayMove(g); err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
		return nil
	}
	return fmt.Errorf("upgrade: %w: %s", workload.ErrUnsupported, why)
}

// offer collects what goes along; done closes what was opened for that.
func (v *VM) offer(g *guest) (o handoff.Offer, done func(), err error) {
	var opened []*os.File
	done = func() {
		for _, f := range opened {
			_ = f.Close()
		}
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	fd, err := unix.FcntlInt(uintptr(g.machine.MemoryFD()), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return o, done, os.NewSyscallError("fcntl", err)
	}
	opened = append(opened, os.NewFile(uintptr(fd), memoryFile))
	o.Files = append(o.Files, handoff.File{Name: memoryFile, File: opened[0]})
	for _, d := range g.machine.Images() {
		o.Files = append(o.Files, handoff.File{Name: diskFile + d.ID, File: d.File})
	}
	l := legacy{HugePages: v.cfg.VM.HugePages}
	if v.net != nil {
		h, files, err := v.net.Hand()
		if err != nil {
			return o, done, err
		}
		l.Net = &h
		for _, f := range files {
			opened = append(opened, f)
			o.Files = append(o.Files, handoff.File{Name: netFile, File: f})
		}
	}
	o.Description, err = json.Marshal(l)
	return o, done, err
}

// errUpgraded is why the guest of an owner that has handed it over ends there.
var errUpgraded = errors.New("it goes on in a new owner process")

// Leave implements workload.Upgrader.
func (v *VM) Leave() {
	g := v.live.Load()
	g.stop(errUpgraded)
	<-g.ended
	<-g.serving
	if v.net != nil {
		v.net.Leave()
	}
	v.net = nil // it is the new owner's to give back
}
