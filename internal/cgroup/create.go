package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options say which group Create makes.
type Options struct {
	// Path is OCI's linux.cgroupsPath: absolute from the hierarchies' roots as
	// they are mounted here, or relative to the caller's own group (v2: to its
	// parent). Groups on the way are made as needed, and stay.
	Path string
	// Resources are its limits; nil: none.
	Resources *specs.LinuxResources
	// Join accepts a group that has processes already. Its limits are changed
	// to Resources all the same.
	Join bool
	// Warn is told of fields that are ignored because the specification says
	// so; nil: nobody is.
	Warn func(msg string)
}

// accounting are the controllers that every group has on v2 where they can be
// had: not for limits, but so that what a group used is known, and a limit can
// be set later.
var accounting = []string{"cpu", "io", "memory", "pids"}

// Create makes a group and sets its limits. On error nothing that it made is
// left, but groups on the way.
//
// Errors to test for: ErrPath, ErrInUse, ErrPermission, ErrNoController,
// ErrUnsupported, ErrValue, ErrNotMounted.
func Create(o Options) (*Group, error) {
	s, err := Detect()
	if err != nil {
		return nil, err
	}
	return s.Create(o)
}

// Create is the function Create on a system that was detected before.
func (s *System) Create(o Options) (*Group, error) {
	g, err := s.at(o.Path)
	if err != nil {
		return nil, err
	}
	r := o.Resources
	if r == nil {
		r = &specs.LinuxResources{}
	}
	p, err := planFor(s, r, nil)
	if err != nil {
		return nil, err
	}
	if err := g.fill(p, r.Devices, o.Join); err != nil {
		g.undo()
		return nil, err
	}
	tell(o.Warn, p.notes)
	return g, nil
}

// fill makes the group and sets its limits.
func (g *Group) fill(p *plan, devices []specs.LinuxDeviceCgroup, join bool) error {
	if err := g.make(p, len(devices) > 0, join); err != nil {
		return err
	}
	if err := g.apply(p); err != nil || len(devices) == 0 {
		return err
	}
	return g.setDevices(devices, g.made[0])
}

func tell(warn func(string), notes []string) {
	if warn != nil {
		for _, n := range notes {
			warn(n)
		}
	}
}

// make makes the directories, in every hierarchy that lets us. One that does
// not, and that no setting needs, is left out.
func (g *Group) make(p *plan, devices, join bool) error {
	need := p.controllers()
	if devices && g.sys.mode != V2 {
		need = append(need, "devices")
	}
	for _, c := range need {
		if g.sys.tree(c) < 0 {
			i := slices.IndexFunc(p.settings, func(s setting) bool { return s.controller == c })
			field := "linux.resources.devices"
			if i >= 0 {
				field = p.settings[i].field
			}
			if i >= 0 && p.settings[i].optional {
				continue
			}
			return g.sys.missing(c, field)
		}
	}
	for i, t := range g.sys.trees {
		var here []string
		for _, c := range need {
			if slices.Contains(t.controllers, c) {
				here = append(here, c)
			}
		}
		err := g.makeIn(i, here, join)
		optional := g.sys.mode != V2 && len(here) == 0 && !errors.Is(err, ErrInUse) &&
			!(t.v2 && slices.ContainsFunc(p.settings, func(s setting) bool { return s.controller == "cgroup" }))
		if err != nil && !optional {
			return err
		}
		if err != nil {
			g.dirs[i] = ""
		}
	}
	if g.dir() == "" {
		return fmt.Errorf("%w: no hierarchy below %s lets us make a group; be root, or have a group delegated to you", ErrPermission, mountPoint)
	}
	return nil
}

// makeIn makes the group's directory in hierarchy i with those controllers.
func (g *Group) makeIn(i int, controllers []string, join bool) error {
	t, dir := g.sys.trees[i], g.dirs[i]
	var err error
	for range 3 { // an empty group on the way may be removed by others at any time
		if err = mkdirs(t.dir, path.Dir(dir)); err == nil {
			err = unix.Mkdir(dir, 0o755)
		}
		if !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	switch {
	case err == nil:
		g.made[i] = true
	case errors.Is(err, unix.EEXIST):
		if err := ready(t, dir, join); err != nil {
			return err
		}
	default:
		return explain(dir, &os.PathError{Op: "mkdir", Path: dir, Err: err})
	}
	switch {
	case t.v2:
		return enable(t, dir, controllers, g.sys.mode == V2)
	case slices.Contains(t.controllers, "cpuset"):
		return inheritCpuset(t.dir, dir)
	}
	return nil
}

// mkdirs makes the groups from root, which exists, down to dir.
func mkdirs(root, dir string) error {
	if dir == root || exists(dir, ".") {
		return nil
	}
	if err := mkdirs(root, path.Dir(dir)); err != nil {
		return err
	}
	if err := unix.Mkdir(dir, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// ready checks a group that exists already.
func ready(t hierarchy, dir string, join bool) error {
	if !join {
		b, err := read(dir, "cgroup.procs")
		if err == nil && strings.TrimSpace(b) != "" {
			return fmt.Errorf("%w: %s has processes", ErrInUse, dir)
		}
		if t.v2 {
			if m, err := readFlat(dir, "cgroup.events"); err == nil && m["populated"] == 1 {
				return fmt.Errorf("%w: a group below %s has processes", ErrInUse, dir)
			}
		}
	}
	if t.v2 { // whoever froze it left nobody in it, or shares it with us
		if n, err := readUint(dir, "cgroup.freeze"); err == nil && n == 1 {
			if join {
				return fmt.Errorf("%w: %s is frozen", ErrInUse, dir)
			}
			return explain(dir, write(dir, "cgroup.freeze", "0"))
		}
	}
	return nil
}

// enable makes controllers available in dir, by cgroup.subtree_control of
// every group above it (cgroup-v2.rst, "Enabling and Disabling"). With
// account, those that only count are tried as well.
func enable(t hierarchy, dir string, controllers []string, account bool) error {
	want := slices.Clone(controllers)
	if account {
		for _, c := range accounting {
			if slices.Contains(t.controllers, c) && !slices.Contains(want, c) {
				want = append(want, c)
			}
		}
	}
	if len(want) == 0 {
		return nil
	}
	// The common case first: the parent passes everything on already.
	if b, err := read(path.Dir(dir), "cgroup.subtree_control"); err == nil && containsAll(strings.Fields(b), want) {
		return nil
	}
	at := t.dir
	for e := range strings.SplitSeq(strings.TrimPrefix(path.Dir(dir), t.dir), "/") {
		at = path.Join(at, e)
		if err := passOn(at, controllers, want); err != nil {
			return err
		}
	}
	return nil
}

func containsAll(have, want []string) bool {
	return !slices.ContainsFunc(want, func(c string) bool { return !slices.Contains(have, c) })
}

// passOn enables want for at's children; only the lack of those that are
// needed is an error.
func passOn(at string, needed, want []string) error {
	b, err := read(at, "cgroup.subtree_control")
	if err != nil {
		return explain(at, err)
	}
	have := strings.Fields(b)
	if containsAll(have, want) {
		return nil
	}
	for _, c := range want { // one by one: a write is refused as a whole
		if slices.Contains(have, c) {
			continue
		}
		err := write(at, "cgroup.subtree_control", "+"+c)
		if err == nil || !slices.Contains(needed, c) {
			continue
		}
		switch {
		case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EOPNOTSUPP):
			return fmt.Errorf("%w: %q: the group %s has processes of its own (or is threaded), so the kernel passes no controller on to its children; choose another parent: %w", ErrNoController, c, at, err)
		case gone(err), errors.Is(err, unix.EINVAL):
			return fmt.Errorf("%w: %q: the group %s does not have it; its parent has to pass it on first: %w", ErrNoController, c, at, err)
		}
		return explain(at, err)
	}
	return nil
}

// inheritCpuset gives a v1 cpuset and those above it processors and memory
// nodes: a new one has none, and takes no process without
// (cgroup-v1/cpusets.rst).
func inheritCpuset(root, dir string) error {
	if dir == root {
		return nil
	}
	var empty []string
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := read(dir, f)
		if err != nil {
			return explain(dir, err)
		}
		if strings.TrimSpace(b) == "" {
			empty = append(empty, f)
		}
	}
	if len(empty) == 0 {
		return nil
	}
	if err := inheritCpuset(root, path.Dir(dir)); err != nil {
		return err
	}
	for _, f := range empty {
		b, err := read(path.Dir(dir), f)
		if err == nil {
			err = write(dir, f, strings.TrimSpace(b))
		}
		if err != nil {
			return explain(dir, err)
		}
	}
	return nil
}

// undo removes what Create made.
func (g *Group) undo() {
	for i, dir := range g.dirs {
		if g.made[i] && dir != "" {
			_ = unix.Rmdir(dir) // nobody is in it
		}
	}
}
