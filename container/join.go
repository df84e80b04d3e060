package container

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/program"
	"golang.org/x/sys/unix"
)

// joining is what a process that joins a container is started with.
type joining struct {
	files []*os.File // further descriptors
	birth *os.File   // group that it is born in; nil: it enters by its descriptors
}

// target opens the namespaces and groups of a container, for a process that
// joins them and has so many descriptors before. Into a paused container it
// goes by descriptors alone: born in a frozen group it would not even get to
// its execve, for which its parent waits. The caller closes what is returned.
func (r *Runtime) target(t *program.Target, rec *record, child string, before int, paused bool) (*joining, error) {
	fd, err := rec.pidfd()
	if err != nil {
		return nil, err
	}
	j := &joining{files: []*os.File{os.NewFile(uintptr(fd), "pidfd")}}
	if err := r.groupFiles(j, rec, child, paused); err != nil {
		j.close()
		return nil, err
	}
	t.PIDFD, t.Last = before, before
	for i := range j.files[1:] {
		t.Groups = append(t.Groups, before+1+i)
	}
	t.Join = foreignNamespaces(rec.PID)
	t.UserNS, t.NoGroups = t.Join&unix.CLONE_NEWUSER != 0, rec.groupsDenied()
	t.Console, t.Notify, t.State = plan.None, plan.None, plan.None
	return j, nil
}

// attr is how the process is cloned.
func (j *joining) attr() *syscall.SysProcAttr {
	if j.birth == nil {
		return nil
	}
	return &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(j.birth.Fd())}
}

func (j *joining) close() {
	closeAll(j.files)
	if j.birth != nil {
		j.birth.Close()
	}
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

// groupFiles opens a container's group, or child below it; "" and "/" are the
// group itself.
func (r *Runtime) groupFiles(j *joining, rec *record, child string, paused bool) error {
	g, err := r.cgroup(rec)
	if err != nil || g == nil {
		return err
	}
	if child = strings.Trim(child, "/"); child != "" {
		if g, err = g.Child(child); err != nil {
			return fmt.Errorf("--cgroup %s: %w", child, err)
		}
	} else {
		g = g.Home(rec.PID)
	}
	doors, err := g.Doors(paused)
	if err != nil {
		return err
	}
	j.files = append(j.files, doors...)
	if !paused {
		j.birth, err = g.File()
	}
	return err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
