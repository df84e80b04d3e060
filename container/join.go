package container

import (
	"fmt"
	"os"
	"strings"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/program"
	"golang.org/x/sys/unix"
)

// target opens the namespaces and groups of a container, for a process that
// joins them and has so many descriptors before. The files are its further
// ones, and the caller's to close.
func (r *Runtime) target(t *program.Target, rec *record, child string, before int) ([]*os.File, error) {
	fd, err := rec.pidfd()
	if err != nil {
		return nil, err
	}
	files := []*os.File{os.NewFile(uintptr(fd), "pidfd")}
	groups, err := r.groupFiles(rec, child)
	if err != nil {
		closeAll(files)
		return nil, err
	}
	t.PIDFD, t.Last = before, before
	for i := range groups {
		t.Groups = append(t.Groups, before+1+i)
	}
	t.Join = foreignNamespaces(rec.PID)
	t.UserNS = t.Join&unix.CLONE_NEWUSER != 0
	t.Console, t.Notify, t.State = plan.None, plan.None, plan.None
	return append(files, groups...), nil
}

// foreignNamespaces are those of a process that are not ours.
func foreignNamespaces(pid int) (flags int) {
	for _, ns := range [...]struct {
		name string
		flag int
	}{
		{"user", unix.CLONE_NEWUSER},
		{"mnt", unix.CLONE_NEWNS},
		{"pid", unix.CLONE_NEWPID},
		{"net", unix.CLONE_NEWNET},
		{"ipc", unix.CLONE_NEWIPC},
		{"uts", unix.CLONE_NEWUTS},
		{"cgroup", unix.CLONE_NEWCGROUP},
		{"time", unix.CLONE_NEWTIME},
	} {
		if !sameNamespace(pid, ns.name) {
			flags |= ns.flag
		}
	}
	return flags
}

// groupFiles opens the files by which a process enters a container's group, or
// child below it; "" and "/" are the group itself.
func (r *Runtime) groupFiles(rec *record, child string) ([]*os.File, error) {
	g, err := r.cgroup(rec)
	if err != nil || g == nil {
		return nil, err
	}
	if child = strings.Trim(child, "/"); child != "" {
		if g, err = g.Child(child); err != nil {
			return nil, fmt.Errorf("--cgroup %s: %w", child, err)
		}
	}
	var out []*os.File
	seen := map[string]bool{}
	for _, dir := range g.Paths() {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		f, err := os.OpenFile(dir+"/cgroup.procs", os.O_WRONLY, 0)
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
