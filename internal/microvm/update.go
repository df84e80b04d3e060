package microvm

import (
	"errors"
	"fmt"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/workload"
)

// CheckUpdate implements workload.OwnerUpdater. The guest was given its
// processors and its memory when it booted.
func (v *VM) CheckUpdate(u workload.Update) error {
	var errs []error
	if n := u.CPUs; n != nil && (*n > float64(vcpus(v.cfg.Res.CPUs)) || *n < cgroup.MinCPUs) {
		errs = append(errs, fmt.Errorf("--cpus %g: this VM has %d processors; it can be held to less, of %g at least, not to more",
			*n, vcpus(v.cfg.Res.CPUs), cgroup.MinCPUs))
	}
	if u.MemoryBytes != nil {
		errs = append(errs, errors.New("--memory: a VM's memory is fixed when it starts"))
	}
	if u.PIDs != nil {
		errs = append(errs, errors.New("--pids-limit: the guest's kernel was told when the VM started"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", workload.ErrUnsupported, err)
	}
	return nil
}
