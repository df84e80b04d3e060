package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// probeCgroup makes and removes a group.
func probeCgroup(v2 bool) error {
	const root = "/sys/fs/cgroup"
	dir := root
	if exists(filepath.Join(root, "cgroup.controllers")) {
		b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
		if err != nil {
			return err
		}
		have := strings.Fields(string(b))
		for _, c := range []string{"cpu", "io", "memory", "pids"} {
			if v2 && !slices.Contains(have, c) {
				return fmt.Errorf("the cgroup v2 tree has no controller %q", c)
			}
		}
	} else if v2 {
		return fmt.Errorf("%s is not a cgroup v2 tree", root)
	} else if dir = filepath.Join(root, "pids"); !exists(dir) {
		return fmt.Errorf("neither cgroup v2 nor a pids hierarchy is mounted on %s", root)
	}
	probe := filepath.Join(dir, fmt.Sprintf("hvctl-probe-%d-%d", os.Getpid(), unix.Gettid()))
	if err := os.Mkdir(probe, 0o755); err != nil {
		return err
	}
	return os.Remove(probe)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
