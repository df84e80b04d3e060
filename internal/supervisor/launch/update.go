package launch

import (
	"context"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/workload"
)

// Update implements workload.Instance's changes of limits. An owner writes into its
// own cgroup only: the controllers that it needs there are ours to pass on. One with a
// user of its own does not even that.
func (h *Handle) Update(ctx context.Context, u workload.Update) error {
	need := cgroup.Limits{IO: u.BlockIO}
	if u.CPUs != nil {
		need.CPUs = *u.CPUs
	}
	if u.CPUWeight != nil {
		need.Weight = *u.CPUWeight
	}
	limits := u.CPUs != nil || u.CPUWeight != nil || u.BlockIO != nil
	if u.VCPUs != nil && h.Apart() {
		if err := h.Client.Update(ctx, u); err != nil || h.Config().VM.Raw {
			return err // a machine that is booted as it is has processors, not a share of them
		}
		return h.limit(cgroup.Limits{CPUs: float64(*u.VCPUs)})
	}
	if limits && h.Apart() {
		u.Step = workload.UpdateAsk
		if err := h.Client.Update(ctx, u); err != nil {
			return err
		}
		if err := h.limit(need); err != nil {
			return err
		}
		u.Step = workload.UpdateDone
	} else if path := h.Group(); limits && path != "" {
		if g, err := cgroup.Open(path); err == nil {
			_ = g.Offer(need.Resources()) // without, the owner says what is missing
		}
	}
	return h.Client.Update(ctx, u)
}

// limit changes the cgroup of the instance, if it has one.
func (h *Handle) limit(l cgroup.Limits) error {
	path := h.Group()
	if path == "" {
		return nil
	}
	g, err := cgroup.Open(path)
	if err != nil {
		return err
	}
	return g.Set(l.Resources(), func(string) {})
}
