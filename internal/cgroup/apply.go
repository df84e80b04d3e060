package cgroup

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Set changes the limits of a living group to what r says; what it does not
// mention stays. When one of several limits is refused, those before it are in
// force already.
func (g *Group) Set(r *specs.LinuxResources, warn func(msg string)) error {
	if err := g.checkUsage(r.Memory); err != nil {
		return err
	}
	p, err := planFor(g.sys, g.withCPUMax(r), g.memoryLimit(r.Memory))
	if err != nil {
		return err
	}
	if err := g.extend(p); err != nil {
		return err
	}
	if err := g.apply(p); err != nil {
		return err
	}
	if len(r.Devices) > 0 {
		if err := g.setDevices(r.Devices, false); err != nil {
			return err
		}
	}
	tell(warn, p.notes)
	return nil
}

// Offer makes available what Set needs for r, for a Set by a process in the group
// that may write nowhere else.
func (g *Group) Offer(r *specs.LinuxResources) error {
	p, err := planFor(g.sys, r, g.memoryLimit(r.Memory))
	if err != nil {
		return err
	}
	return g.extend(p)
}

// extend makes the controllers that p needs available in a group that exists.
func (g *Group) extend(p *plan) error {
	need := p.controllers()
	for _, c := range need {
		i := g.sys.tree(c)
		if i < 0 {
			at := slices.IndexFunc(p.settings, func(s setting) bool { return s.controller == c })
			return g.sys.missing(c, p.settings[at].field)
		}
		if g.dirs[i] == "" {
			return fmt.Errorf("%w: %q: %s is not in its hierarchy", ErrNoController, c, g)
		}
	}
	dir := g.v2()
	if dir == "" {
		return nil
	}
	t := g.sys.trees[0]
	here := slices.DeleteFunc(need, func(c string) bool { return !slices.Contains(t.controllers, c) })
	return enable(t, dir, here, false)
}

// apply writes the settings in their order.
func (g *Group) apply(p *plan) error {
	for i := 0; i < len(p.settings); i++ {
		s := p.settings[i]
		err := g.put(s)
		if err != nil && s.pair && i+1 < len(p.settings) && errors.Is(err, unix.EINVAL) {
			// The kernel holds the two against each other: the other way round.
			if second := g.put(p.settings[i+1]); second != nil {
				return g.refused(s, err)
			}
			if err = g.put(s); err == nil {
				i++
			}
		}
		if err != nil {
			return g.refused(s, err)
		}
	}
	return nil
}

// put writes one setting.
func (g *Group) put(s setting) error {
	dir, _ := g.of(s.controller)
	if dir == "" {
		if s.optional {
			return nil
		}
		return g.sys.missing(s.controller, s.field)
	}
	if s.altFile != "" && exists(dir, s.altFile) {
		return write(dir, s.altFile, s.altValue)
	}
	err := write(dir, s.file, s.value)
	if s.optional && gone(err) && exists(dir, ".") {
		return nil
	}
	return err
}

// refused says what a failed setting was for.
func (g *Group) refused(s setting, err error) error {
	dir, v2 := g.of(s.controller)
	switch {
	case errors.Is(err, ErrNoController):
		return err
	case gone(err) && dir != "" && !exists(dir, "."):
		return fmt.Errorf("%w: %s", ErrNotFound, g)
	case gone(err) && v2 && !slices.Contains(g.sys.trees[0].controllers, s.controller) && s.controller != "cgroup":
		return g.sys.missing(s.controller, s.field)
	case gone(err):
		return fmt.Errorf("%w: %s: this kernel has no %s", ErrUnsupported, s.field, s.file)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EBUSY), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: %s: the kernel refuses %q for %s: %w", ErrValue, s.field, s.value, path.Join(dir, s.file), err)
	}
	return explain(s.field, err)
}

// memoryLimit is the limit in force, for an update that changes swap alone.
func (g *Group) memoryLimit(m *specs.LinuxMemory) *int64 {
	if m == nil || m.Swap == nil || m.Limit != nil && *m.Limit != 0 {
		return nil
	}
	dir, v2 := g.of("memory")
	if dir == "" || !v2 {
		return nil
	}
	n, err := readUint(dir, "memory.max")
	if err != nil {
		return nil
	}
	limit := int64(-1)
	if n <= 1<<62 {
		limit = int64(n)
	}
	return &limit
}

// withCPUMax is r with quota or period from the limit in force, where r changes
// the other alone: v2 has both in one line.
func (g *Group) withCPUMax(r *specs.LinuxResources) *specs.LinuxResources {
	if r.CPU == nil {
		return r
	}
	quota, period := r.CPU.Quota != nil && *r.CPU.Quota != 0, r.CPU.Period != nil && *r.CPU.Period != 0
	dir, v2 := g.of("cpu")
	if quota == period || dir == "" || !v2 {
		return r
	}
	line, err := read(dir, "cpu.max")
	f := strings.Fields(line)
	if err != nil || len(f) != 2 {
		return r // not enabled yet: there is none in force
	}
	both, c := *r, *r.CPU
	both.CPU = &c
	if n, err := strconv.ParseInt(f[0], 10, 64); err == nil && !quota { // else "max"
		c.Quota = &n
	}
	if n, err := strconv.ParseUint(f[1], 10, 64); err == nil && !period {
		c.Period = &n
	}
	return &both
}

// checkUsage is OCI's checkBeforeUpdate: a limit below what is used now would
// have the kernel kill, not refuse.
func (g *Group) checkUsage(m *specs.LinuxMemory) error {
	if m == nil || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate || m.Limit == nil || *m.Limit <= 0 {
		return nil
	}
	dir, v2 := g.of("memory")
	if dir == "" {
		return nil
	}
	file := "memory.usage_in_bytes"
	if v2 {
		file = "memory.current"
	}
	used, err := readUint(dir, file)
	if err != nil {
		return explain(g.String(), err)
	}
	if used > uint64(*m.Limit) {
		return valueError("linux.resources.memory.limit", "%d is less than the %d bytes in use (checkBeforeUpdate)", *m.Limit, used)
	}
	return nil
}
