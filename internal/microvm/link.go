package microvm

import (
	"context"
	"fmt"

	"github.com/hvctl/hvctl/internal/workload"
)

// netID is the network device's ID.
const netID = "net0"

// UpdateLink implements workload.LinkUpdater. A guest that is restored, received or
// handed over has its link up.
func (v *VM) UpdateLink(_ context.Context, s workload.LinkState) error {
	g, err := v.running()
	if err != nil {
		return err
	}
	nic := g.machine.NIC(netID)
	if nic == nil {
		return fmt.Errorf("%w: --link: the VM has no network interface", workload.ErrUnsupported)
	}
	if err := nic.SetLink(s == workload.LinkUp); err != nil {
		return fmt.Errorf("--link %s: %w", s, err)
	}
	return nil
}

// unwatchNetwork makes ready for the kernel to serve the tap: frames then wake
// nobody here, and that the tap is removed has to be noticed in another way.
func (v *VM) unwatchNetwork() (err error) {
	if err := v.net.Unwatch(); err != nil || len(v.net.Queues) == 0 {
		return err
	}
	v.removal, err = v.net.WatchRemoval()
	return err
}

// followRemoval pulls the guest's cable when its tap is removed.
func (v *VM) followRemoval(g *guest) {
	nic := g.machine.NIC(netID)
	if v.removal == nil || nic == nil {
		return
	}
	removal := v.removal
	go func() {
		if removal.Wait(g.ctx) == nil {
			nic.Gone()
		}
	}()
}
