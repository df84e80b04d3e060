package ociconf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// View is which cgroup hierarchies a runtime gets to see.
type View string

const (
	// Host is the machine as it is.
	Host View = "host"
	// V1Only hides the cgroup v2 tree of a hybrid machine. crun wants it: it
	// refuses hybrid mode as soon as the v2 tree has a controller.
	V1Only View = "v1-only"
)

// Mode names how cgroups are mounted on this machine: "cgroup-v2", "hybrid-v1"
// or "cgroup-v1". Results of different modes are not comparable.
func Mode() string {
	switch {
	case exists("/sys/fs/cgroup/cgroup.controllers"):
		return "cgroup-v2"
	case exists("/sys/fs/cgroup/unified/cgroup.controllers"):
		return "hybrid-v1"
	}
	return "cgroup-v1"
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// enter prepares the namespaces that a program runs in. Leftover containers
// die with the PID namespace, mounts with the mount namespace, and the state
// directories of runtimes with the tmpfs on /run.
const enter = `set -e
mount -t tmpfs -o mode=755 tmpfs /run
if [ "$1" = v1-only ]; then
	mkdir /run/cgroup
	mount -t tmpfs -o mode=755 tmpfs /run/cgroup
	for d in /sys/fs/cgroup/*/; do
		d=${d%/}
		[ -e "$d/cgroup.controllers" ] && continue
		mkdir "/run/cgroup/${d##*/}"
		mount --bind "$d" "/run/cgroup/${d##*/}"
	done
	umount -R /sys/fs/cgroup
	mount --move /run/cgroup /sys/fs/cgroup
fi
shift
exec "$@"
`

// run executes one program of the suite in folder dir and returns its output.
// A program that takes longer than limit is killed with all it started.
func run(ctx context.Context, dir, program, runtime string, view View, limit time.Duration) (output []byte, rc int, err error) {
	tmp, err := os.MkdirTemp("", "ociconf-")
	if err != nil {
		return nil, 0, err
	}
	defer os.RemoveAll(tmp)
	// The root of a container with a user namespace is nobody here, and must
	// get to its root file system.
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", enter, "sh", string(view), program)
	c.Dir = dir
	c.Env = append(os.Environ(), "RUNTIME="+runtime, "TMPDIR="+tmp)
	// What a killed program started may hold the pipe open for a moment.
	c.WaitDelay = 5 * time.Second
	output, err = c.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return output, 0, fmt.Errorf("no end within %v: %w", limit, ctx.Err())
	case errors.As(err, &exit):
		return output, exit.ExitCode(), nil
	}
	return output, 0, err
}

// leftover matches the cgroups that programs make and leave: two by fixed
// names, and the defaults of runtimes, which carry the container's UUID.
var leftover = regexp.MustCompile(`^(testdir|cgrouptest|(libcrun-|crun-)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.scope)?)$`)

// groups lists the cgroups of this machine that look like leftovers.
func groups() map[string]bool {
	found := map[string]bool{}
	const root = "/sys/fs/cgroup"
	// A walk that meets a group being removed just goes on.
	_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil || !d.IsDir():
			return nil
		case leftover.MatchString(d.Name()):
			found[path] = true
		case strings.Count(path, "/") > strings.Count(root, "/")+4:
			return filepath.SkipDir
		}
		return nil
	})
	return found
}

// sweep removes the groups that look like leftovers and were not there before.
// Groups with a process in them stay: rmdir refuses.
func sweep(before map[string]bool) {
	for path := range groups() {
		if !before[path] {
			_ = removeGroup(path)
		}
	}
}

// removeGroup removes a group and those below it.
func removeGroup(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			_ = removeGroup(filepath.Join(path, e.Name()))
		}
	}
	return os.Remove(path)
}
