package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Group is one cgroup: a directory in each hierarchy that takes part. It holds
// no descriptor and may be copied; methods may be called concurrently, and by
// any number of processes.
type Group struct {
	sys  *System
	dirs []string // one for each of sys.trees; "" where the group is not
	made []bool   // by Create, and so its to take back
}

// Open returns the existing group at path (see Options.Path).
func Open(p string) (*Group, error) {
	s, err := Detect()
	if err != nil {
		return nil, err
	}
	return s.Open(p)
}

// Open is the function Open on a system that was detected before.
func (s *System) Open(p string) (*Group, error) {
	g, err := s.at(p)
	if err != nil {
		return nil, err
	}
	for i, dir := range g.dirs {
		if !exists(dir, "cgroup.procs") {
			g.dirs[i] = ""
		}
	}
	if g.dir() == "" {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, p)
	}
	return g, nil
}

// at is the group of that path in every hierarchy, which may not exist.
func (s *System) at(p string) (*Group, error) {
	p, err := CleanPath(p)
	if err != nil {
		return nil, err
	}
	base := make([]string, len(s.trees))
	if p[0] != '/' {
		if base, err = s.own(); err != nil {
			return nil, err
		}
		for i, t := range s.trees {
			if t.v2 { // our own group has us in it, and so can have no limited children
				base[i] = path.Dir(base[i])
			}
		}
	}
	g := &Group{sys: s, made: make([]bool, len(s.trees))}
	for i, t := range s.trees {
		g.dirs = append(g.dirs, below(t.dir, below("/"+base[i], p)))
	}
	return g, nil
}

// Load makes a group from what Paths returned, in this process or another.
// Directories that no longer exist are no error: Delete and Kill then have
// nothing to do.
func Load(paths map[string]string) (*Group, error) {
	s, err := Detect()
	if err != nil {
		return nil, err
	}
	return s.Load(paths)
}

// Load is the function Load on a system that was detected before.
func (s *System) Load(paths map[string]string) (*Group, error) {
	g := &Group{sys: s, dirs: make([]string, len(s.trees)), made: make([]bool, len(s.trees))}
	for name, dir := range paths {
		i := slices.IndexFunc(s.trees, func(t hierarchy) bool {
			return t.v2 && name == "" || slices.Contains(t.controllers, name) && !t.v2
		})
		switch {
		case i < 0:
			return nil, fmt.Errorf("%w: %s: no hierarchy %q is mounted now", ErrPath, dir, name)
		case dir != path.Clean(dir) || !Within(s.trees[i].dir, dir) || dir == s.trees[i].dir:
			return nil, fmt.Errorf("%w: %q is not below %s", ErrPath, dir, s.trees[i].dir)
		case g.dirs[i] != "" && g.dirs[i] != dir:
			return nil, fmt.Errorf("%w: %q and %q are of one hierarchy", ErrPath, dir, g.dirs[i])
		}
		g.dirs[i] = dir
	}
	if g.dir() == "" {
		return nil, fmt.Errorf("%w: no directory given", ErrPath)
	}
	return g, nil
}

// Paths are the group's directories by controller, the v2 tree's by "". Store
// it: a relative path cannot be resolved again by another process.
func (g *Group) Paths() map[string]string {
	m := map[string]string{}
	for i, dir := range g.dirs {
		if dir == "" {
			continue
		}
		if g.sys.trees[i].v2 {
			m[""] = dir
			continue
		}
		for _, c := range g.sys.trees[i].controllers {
			m[c] = dir
		}
	}
	return m
}

// Mode is the arrangement of the host that the group is on.
func (g *Group) Mode() Mode { return g.sys.mode }

// dir is the group's most telling directory: that of the v2 tree, else any.
func (g *Group) dir() string {
	for _, d := range g.dirs {
		if d != "" {
			return d
		}
	}
	return ""
}

// v2 is the directory in the v2 tree; "" on a v1 host.
func (g *Group) v2() string {
	if g.sys.trees[0].v2 {
		return g.dirs[0]
	}
	return ""
}

// of is the directory where the controller's files are; "" without one.
func (g *Group) of(controller string) (dir string, v2 bool) {
	i := g.sys.tree(controller)
	if i < 0 {
		return "", false
	}
	return g.dirs[i], g.sys.trees[i].v2
}

// String is the group's path below its hierarchy, for messages.
func (g *Group) String() string {
	for i, d := range g.dirs {
		if d != "" {
			return strings.TrimPrefix(d, g.sys.trees[i].dir)
		}
	}
	return "(no cgroup)"
}

// File opens the group for clone3's CLONE_INTO_CGROUP
// (SysProcAttr.UseCgroupFD): a child is born in it and never was anywhere
// else. It is nil, without error, on a v1 host; on a hybrid one Add or Doors are
// still needed for the v1 hierarchies. The caller closes it.
func (g *Group) File() (*os.File, error) {
	dir := g.v2()
	if dir == "" {
		return nil, nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, explain(g.String(), &os.PathError{Op: "open", Path: dir, Err: err})
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// Doors opens the files by which a process with one thread enters the group's
// v1 hierarchies, and with v2 the v2 tree, too: it writes "0" to each. The
// caller closes them.
//
// On v1 that is the tasks file: a thread that moves itself needs no lock
// against the forks and exits of the whole machine, which Add takes. Where
// nobody took that lock lately, it lasts an RCU grace period (10 ms).
func (g *Group) Doors(v2 bool) ([]*os.File, error) {
	var out []*os.File
	for i, dir := range g.dirs {
		name := "tasks"
		switch t := g.sys.trees[i]; {
		case dir == "", t.v2 && !v2:
			continue
		case t.v2:
			name = "cgroup.procs"
		}
		f, err := openControl(dir, name)
		if err != nil {
			for _, f := range out {
				f.Close()
			}
			return nil, explain(g.String(), err)
		}
		out = append(out, f)
	}
	return out, nil
}

// NeedsAdd tells that File alone does not put a child under every limit.
func (g *Group) NeedsAdd() bool { return g.sys.mode != V2 }

// Add moves a process, with all its threads, into the group in every
// hierarchy. 0 is the caller. Children that it has already stay where they
// are.
func (g *Group) Add(pid int) error {
	for _, dir := range g.dirs {
		if dir == "" {
			continue
		}
		if err := write(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return g.addError(pid, err)
		}
	}
	return nil
}

// Leave moves the calling process out of the group, to the root of each
// hierarchy, so that it can delete the group that it lived in. That needs more
// rights than living in a group does.
func (g *Group) Leave() error {
	for i, dir := range g.dirs {
		if dir == "" {
			continue
		}
		if err := write(g.sys.trees[i].dir, "cgroup.procs", "0"); err != nil {
			return explain(g.sys.trees[i].dir, err)
		}
	}
	return nil
}

func (g *Group) addError(pid int, err error) error {
	what := fmt.Sprintf("%s: process %d", g, pid)
	switch {
	case errors.Is(err, unix.ESRCH):
		return fmt.Errorf("cgroup %s: it has ended: %w", what, err)
	case errors.Is(err, unix.EBUSY): // cgroup-v2.rst, "No Internal Process Constraint"
		return fmt.Errorf("cgroup %s: the group passes controllers on to children and so cannot have processes; name a group below it: %w", what, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("cgroup %s: the group or its parent is a threaded one: %w", what, err)
	case gone(err):
		return fmt.Errorf("%w: %s", ErrNotFound, g)
	}
	return explain(what, err)
}

// Child is the group name below this one, in the same hierarchies; name may
// have several elements. It need not exist.
func (g *Group) Child(name string) (*Group, error) {
	p, err := JoinPath("/", name)
	if err != nil {
		return nil, err
	}
	c := &Group{sys: g.sys, dirs: make([]string, len(g.dirs)), made: make([]bool, len(g.dirs))}
	for i, d := range g.dirs {
		if d != "" {
			c.dirs[i] = below(d, p)
		}
	}
	return c, nil
}

// Home is the group that a process of this one is in, where this one passes
// controllers of the v2 tree on to groups below it and so can have no processes
// itself (cgroup-v2.rst, "No Internal Process Constraint"), as where an init
// system runs in a container; else it is the group itself.
func (g *Group) Home(pid int) *Group {
	dir := g.v2()
	if dir == "" {
		return g
	}
	if passed, err := read(dir, "cgroup.subtree_control"); err != nil || strings.TrimSpace(passed) == "" {
		return g
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return g
	}
	for line := range strings.Lines(string(b)) {
		p, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "0::")
		if at := path.Join(g.sys.trees[0].dir, p); ok && Within(dir, at) {
			home := &Group{sys: g.sys, dirs: slices.Clone(g.dirs), made: make([]bool, len(g.dirs))}
			home.dirs[0] = at
			return home
		}
	}
	return g
}

// Exists tells whether the group is there.
func (g *Group) Exists() bool {
	return slices.ContainsFunc(g.dirs, func(d string) bool { return d != "" && exists(d, "cgroup.procs") })
}

// Procs lists the processes of the group and of all groups below it.
func (g *Group) Procs() ([]int, error) {
	dir := g.dir()
	seen := map[int]bool{}
	var pids []int
	err := walk(dir, func(d string) error {
		s, err := read(d, "cgroup.procs")
		if errors.Is(err, unix.EOPNOTSUPP) { // a threaded group: its processes are listed further up
			return nil
		}
		if err != nil {
			return err
		}
		for f := range strings.FieldsSeq(s) {
			if pid, err := strconv.Atoi(f); err == nil && !seen[pid] { // 0 is a process of another PID namespace
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
		return nil
	})
	if gone(err) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, g)
	}
	return pids, explain(g.String(), err)
}

// walk calls fn for dir and every group below, children first. Groups that
// disappear meanwhile are passed over; that dir itself is missing is an error.
func walk(dir string, fn func(dir string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := walk(path.Join(dir, e.Name()), fn); err != nil && !gone(err) {
				return err
			}
		}
	}
	return fn(dir)
}

// Delegate gives the group to a user, who may then make groups below it and
// move processes among those: the files that cgroup-v2.rst names under "Model
// of Delegation". Only the v2 tree can be delegated safely; elsewhere it does
// nothing.
func (g *Group) Delegate(uid, gid int) error {
	dir := g.v2()
	if dir == "" || g.sys.mode != V2 {
		return nil
	}
	files := []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}
	if b, err := os.ReadFile("/sys/kernel/cgroup/delegate"); err == nil {
		files = strings.Fields(string(b))
	}
	if err := os.Lchown(dir, uid, gid); err != nil {
		return explain(g.String(), err)
	}
	for _, f := range files {
		if strings.Contains(f, "/") {
			continue
		}
		if err := os.Lchown(path.Join(dir, f), uid, gid); err != nil && !gone(err) {
			return explain(g.String(), err)
		}
	}
	return nil
}
