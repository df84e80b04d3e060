package stage

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/hvctl/hvctl/container/plan"
	"golang.org/x/sys/unix"
)

// maxCap is the highest capability asked about; the kernel says where its
// own end.
const maxCap = 63

const capSysAdmin = 1 << unix.CAP_SYS_ADMIN

// become turns the process into the user's program. The order matters: what
// needs privileges comes before they go, what would limit us comes last.
func (s *stage) become(path string) error {
	p := s.plan.Process
	if err := s.closeOthers(p); err != nil {
		return err
	}
	if err := dropBounding(p); err != nil {
		return err
	}
	if err := switchUser(p); err != nil {
		return err
	}
	if p.HasUmask {
		unix.Umask(int(p.Umask))
	} else {
		unix.Umask(0o022)
	}
	if p.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("process.noNewPrivileges: %w", err)
		}
	}
	if err := setCaps(p); err != nil {
		return err
	}
	if err := rlimits(p); err != nil {
		return err
	}
	if p.DieWithParent { // forgotten with every change of identity, so late
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
			return os.NewSyscallError("PR_SET_PDEATHSIG", err)
		}
	}
	if err := s.seccomp(); err != nil {
		return fmt.Errorf("linux.seccomp: %w", err)
	}
	err := syscall.Exec(path, p.Args, p.Env)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("exec: %q: its interpreter is missing: %w", p.Args[0], err)
	}
	return fmt.Errorf("exec: %q: %w", p.Args[0], err)
}

// dropBounding removes from the bounding set what the program may never have.
func dropBounding(p *plan.Process) error {
	if !p.HasCaps {
		return nil
	}
	for c := uintptr(0); c <= maxCap; c++ {
		if p.Caps.Bounding&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			if err == unix.EINVAL {
				break // the kernel has no more
			}
			return fmt.Errorf("process.capabilities.bounding: drop %d: %w", c, err)
		}
	}
	return nil
}

// switchUser changes groups, then user, and keeps the capabilities over it.
// The calls are made for this thread alone, the only one that remains.
func switchUser(p *plan.Process) error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("PR_SET_KEEPCAPS", err)
	}
	if p.SetGroups {
		if err := setGroups(p.Groups); err != nil {
			return fmt.Errorf("process.user.additionalGids: %w", err)
		}
	}
	id := uintptr(p.GID)
	if _, _, e := unix.Syscall(unix.SYS_SETRESGID, id, id, id); e != 0 {
		return fmt.Errorf("process.user.gid %d: %w", p.GID, e)
	}
	id = uintptr(p.UID)
	if _, _, e := unix.Syscall(unix.SYS_SETRESUID, id, id, id); e != 0 {
		return fmt.Errorf("process.user.uid %d: %w", p.UID, e)
	}
	return nil
}

// setCaps sets the other four sets. Without no_new_privs the kernel wants
// CAP_SYS_ADMIN for the seccomp filter that follows; execve computes the
// program's sets from the inheritable, ambient and bounding ones alone, so
// what is permitted here does not reach it.
func setCaps(p *plan.Process) error {
	if !p.HasCaps {
		return nil
	}
	c := p.Caps
	eff, perm := c.Effective, c.Permitted
	if len(p.Seccomp) > 0 && !p.NoNewPrivs {
		eff, perm = eff|capSysAdmin, perm|capSysAdmin
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(eff), Permitted: uint32(perm), Inheritable: uint32(c.Inheritable)},
		{Effective: uint32(eff >> 32), Permitted: uint32(perm >> 32), Inheritable: uint32(c.Inheritable >> 32)},
	}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("process.capabilities: %w; the caller itself may lack one of them", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("PR_CAP_AMBIENT", err)
	}
	for b := uintptr(0); b <= maxCap; b++ {
		if c.Ambient&(1<<b) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, b, 0, 0); err != nil {
			return fmt.Errorf("process.capabilities.ambient: %d must be permitted and inheritable, too: %w", b, err)
		}
	}
	return nil
}
