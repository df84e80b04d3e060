package cgroup

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mountPoint is where every distribution has its cgroups; systemd's
// CGROUP_DELEGATION document calls it an interface.
const mountPoint = "/sys/fs/cgroup"

// Mode is how a host's controllers are spread.
type Mode string

// The three arrangements. Hybrid has v1 hierarchies with a v2 tree beside
// them, which may have controllers of its own.
const (
	V1     Mode = "v1"
	V2     Mode = "v2"
	Hybrid Mode = "hybrid"
)

// hierarchy is one mounted tree.
type hierarchy struct {
	dir         string // its mount point
	v2          bool
	controllers []string // "name=systemd" is one without limits
}

// System is what a host's cgroup file systems look like.
type System struct {
	mode  Mode
	trees []hierarchy // the v2 one first
}

// Detect looks at the mounted cgroup file systems. It costs two system calls
// on a v2 host, and is cheap enough to be asked each time.
func Detect() (*System, error) { return detect(mountPoint) }

func detect(root string) (*System, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotMounted, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return &System{mode: V2, trees: []hierarchy{unified(root)}}, nil
	}
	s := &System{mode: V1}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotMounted, err)
	}
	for _, e := range entries {
		dir := path.Join(root, e.Name())
		if !e.IsDir() || unix.Statfs(dir, &st) != nil { // "cpu" may be a link to "cpu,cpuacct"
			continue
		}
		switch {
		case st.Type == unix.CGROUP2_SUPER_MAGIC:
			s.mode = Hybrid
			s.trees = slices.Insert(s.trees, 0, unified(dir))
		case st.Type == unix.CGROUP_SUPER_MAGIC && e.Name() == "systemd":
			s.trees = append(s.trees, hierarchy{dir: dir, controllers: []string{"name=systemd"}})
		case st.Type == unix.CGROUP_SUPER_MAGIC:
			s.trees = append(s.trees, hierarchy{dir: dir, controllers: strings.Split(e.Name(), ",")})
		}
	}
	if len(s.trees) == 0 {
		return nil, ErrNotMounted
	}
	return s, nil
}

func unified(dir string) hierarchy {
	h := hierarchy{dir: dir, v2: true}
	if b, err := os.ReadFile(path.Join(dir, "cgroup.controllers")); err == nil {
		h.controllers = strings.Fields(string(b))
	}
	return h
}

// Mode is the host's arrangement.
func (s *System) Mode() Mode { return s.mode }

// Controllers is every controller there is, wherever it is mounted, sorted.
func (s *System) Controllers() []string {
	var all []string
	for _, t := range s.trees {
		for _, c := range t.controllers {
			if !strings.HasPrefix(c, "name=") {
				all = append(all, c)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// tree is the index of the hierarchy that has the controller, or -1. The v2
// tree is also where the core's own files are ("cgroup").
func (s *System) tree(controller string) int {
	return slices.IndexFunc(s.trees, func(h hierarchy) bool {
		return h.v2 && controller == "cgroup" || slices.Contains(h.controllers, controller)
	})
}

// missing explains why a field cannot be had without controller.
func (s *System) missing(controller, field string) error {
	todo := "the kernel lacks it or has it disabled (cgroup_disable=)"
	if s.mode == V2 {
		todo += ", or it is not passed on to this part of the tree (cgroup.subtree_control)"
	} else {
		todo += ", or it is not mounted below " + mountPoint
	}
	return fmt.Errorf("%w: %q, which %s needs: %s; there are %s", ErrNoController, controller, field, todo, strings.Join(s.Controllers(), " "))
}

// own is the caller's own group in each hierarchy, from /proc/self/cgroup
// (cgroups(7)).
func (s *System) own() ([]string, error) {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	own := make([]string, len(s.trees))
	for i := range own {
		own[i] = "/"
	}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		parts := strings.SplitN(sc.Text(), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for i, t := range s.trees {
			if t.v2 && parts[1] == "" || !t.v2 && slices.Contains(strings.Split(parts[1], ","), t.controllers[0]) {
				own[i] = path.Clean("/" + parts[2]) // "/.." is how a namespace shows groups outside of it
			}
		}
	}
	return own, nil
}
