package nscontainer

import (
	"context"
	"fmt"

	"github.com/hvctl/hvctl/internal/workload"
)

var _ workload.LinkUpdater = (*Container)(nil)

// UpdateLink implements workload.LinkUpdater: without the host's end of the pair
// the container's interface has no carrier, as a VM's without its cable.
func (c *Container) UpdateLink(_ context.Context, s workload.LinkState) error {
	if _, err := c.running(); err != nil {
		return err
	}
	if c.net == nil || c.cfg.Net.Mode != workload.NetBridge {
		return fmt.Errorf("%w: --link: only a container on the bridge has a cable to pull, not with network %s", workload.ErrUnsupported, c.cfg.Net.Mode)
	}
	return c.net.SetLink(s == workload.LinkUp)
}
