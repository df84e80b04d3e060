package cgroup

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// File is a control file of cgroup v2 and what is written to it.
type File struct{ Name, Value string }

// Files are what r means on cgroup v2, in the order in which it is written, for
// whoever else has to be told of it. The error is the one that Create would
// return, or wraps ErrUnsupported where there is no v2 tree with all
// controllers.
func (s *System) Files(r *specs.LinuxResources) ([]File, error) { return s.files(r, nil) }

// Files is System's for a change of limits that are in force.
func (g *Group) Files(r *specs.LinuxResources) ([]File, error) {
	return g.sys.files(g.withCPUMax(r), g.memoryLimit(r.Memory))
}

func (s *System) files(r *specs.LinuxResources, memory *int64) ([]File, error) {
	if s.mode != V2 {
		return nil, fmt.Errorf("%w: cgroup v2 alone is needed, and here is %s", ErrUnsupported, s.mode)
	}
	p, err := planV2(r, memory)
	if err != nil {
		return nil, err
	}
	out := make([]File, 0, len(p.settings))
	for _, set := range p.settings {
		out = append(out, File{set.file, set.value})
	}
	return out, nil
}
