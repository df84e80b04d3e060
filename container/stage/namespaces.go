package stage

import (
	"fmt"
	"os"
	"strconv"

	"github.com/hvctl/hvctl/container/inroot"
	"golang.org/x/sys/unix"
)

// enterNamespaces joins what exists and makes what only the process itself
// can make: the cgroup namespace shows the cgroup one was in when it was made,
// and by now the runtime has put us there.
func (s *stage) enterNamespaces() error {
	p := s.plan
	for _, j := range p.Join {
		if j.Flag == unix.CLONE_NEWNS {
			// A thread that shares its root and directory with others may not.
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return os.NewSyscallError("unshare(CLONE_FS)", err)
			}
		}
		if err := unix.Setns(int(j.FD), int(j.Flag)); err != nil {
			return fmt.Errorf("join the %s namespace: %w", nsName(j.Flag), err)
		}
		unix.Close(int(j.FD))
	}
	if p.Unshare != 0 {
		if err := unix.Unshare(int(p.Unshare)); err != nil {
			return fmt.Errorf("make a %s namespace: %w", nsName(p.Unshare), err)
		}
	}
	if p.TimeOffsets != "" {
		proc, err := inroot.OpenProc()
		if err != nil {
			return err
		}
		defer proc.Close()
		if err := proc.Write(strconv.Itoa(os.Getpid())+"/timens_offsets", p.TimeOffsets); err != nil {
			return fmt.Errorf("linux.timeOffsets: %w", err)
		}
	}
	return nil
}

func nsName(flag uint32) string {
	for _, n := range [...]struct {
		flag uint32
		name string
	}{
		{unix.CLONE_NEWUSER, "user"}, {unix.CLONE_NEWNS, "mount"}, {unix.CLONE_NEWPID, "pid"}, {unix.CLONE_NEWNET, "network"},
		{unix.CLONE_NEWIPC, "ipc"}, {unix.CLONE_NEWUTS, "uts"}, {unix.CLONE_NEWCGROUP, "cgroup"}, {unix.CLONE_NEWTIME, "time"},
	} {
		if flag&n.flag != 0 {
			return n.name
		}
	}
	return fmt.Sprintf("%#x", flag)
}
