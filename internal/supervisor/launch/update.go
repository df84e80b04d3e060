package launch

import (
	"context"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/workload"
)

// Update implements workload.Instance's changes of limits. An owner writes into its
// own cgroup only: the controllers that it needs there are ours to pass on.
func (h *Handle) Update(ctx context.Context, u workload.Update) error {
	if path := h.Group(); path != "" && (u.CPUs != nil || u.CPUWeight != nil || u.BlockIO != nil) {
		need := cgroup.Limits{IO: u.BlockIO}
		if u.CPUs != nil || u.CPUWeight != nil {
			need.CPUs = 1
		}
		if g, err := cgroup.Open(path); err == nil {
			_ = g.Offer(need.Resources()) // without, the owner says what is missing
		}
	}
	return h.Client.Update(ctx, u)
}
