package stage

import (
	"errors"
	"fmt"
	"os"

	"github.com/hvctl/hvctl/container/inroot"
	"github.com/hvctl/hvctl/container/plan"
	"golang.org/x/sys/unix"
)

// container makes the root file system and everything the namespaces hold.
func (s *stage) container() error {
	p := s.plan
	if p.Hostname != "" {
		if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
			return fmt.Errorf("hostname: %w", err)
		}
	}
	if p.Domainname != "" {
		if err := unix.Setdomainname([]byte(p.Domainname)); err != nil {
			return fmt.Errorf("domainname: %w", err)
		}
	}
	if p.Root.Remain {
		return s.plainRoot()
	}
	if err := s.openNull(); err != nil {
		return err
	}
	if err := s.bindRoot(); err != nil {
		return err
	}
	for i := range p.Mounts {
		if err := s.mount(&p.Mounts[i]); err != nil {
			return fmt.Errorf("mount %s: %w", p.Mounts[i].Dest, err)
		}
	}
	if err := s.devices(); err != nil {
		return err
	}
	if err := s.console(); err != nil {
		return err
	}
	if err := s.runtimeHooks(); err != nil {
		return err
	}
	if err := s.hooks(p.InContainer, p.State); err != nil {
		return fmt.Errorf("hooks.createContainer: %w", err)
	}
	if err := s.sysctl(); err != nil {
		return err
	}
	if err := s.restrictPaths(); err != nil {
		return err
	}
	for _, f := range s.later {
		if err := f(); err != nil {
			return err
		}
	}
	return s.enterRoot()
}

// plainRoot is for a container without a mount namespace: it only changes its
// root directory.
func (s *stage) plainRoot() error {
	if err := s.runtimeHooks(); err != nil {
		return err
	}
	if err := s.hooks(s.plan.InContainer, s.plan.State); err != nil {
		return fmt.Errorf("hooks.createContainer: %w", err)
	}
	if err := s.sysctl(); err != nil {
		return err
	}
	if err := unix.Chroot(s.plan.Root.Path); err != nil {
		return &os.PathError{Op: "chroot", Path: s.plan.Root.Path, Err: err}
	}
	if err := unix.Chdir("/"); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	s.root = fd
	if err != nil {
		return os.NewSyscallError("open /", err)
	}
	return s.console()
}

// openNull opens the host's /dev/null, which masks files, while it is in
// reach. The image's own must not be used: it may be anything.
func (s *stage) openNull() error {
	fd, err := unix.Open("/dev/null", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/null", Err: err}
	}
	if err := inroot.CheckDevice(fd, 1, 3); err != nil {
		return fmt.Errorf("the host's /dev/null: %w", err)
	}
	s.null = fd
	return nil
}

// runtimeHooks lets the runtime run its hooks, which may change our network
// or mounts.
func (s *stage) runtimeHooks() error {
	if !s.plan.RuntimeHooks {
		return nil
	}
	if err := plan.Send(s.report, plan.Hooks, ""); err != nil {
		return err
	}
	k, _, err := plan.Receive(s.report)
	if err != nil {
		return fmt.Errorf("waiting for the runtime's hooks: %w", err)
	}
	if k != plan.Continue {
		return errors.New("waiting for the runtime's hooks: unexpected message")
	}
	return nil
}

// sysctl writes the kernel parameters of our namespaces.
func (s *stage) sysctl() error {
	if len(s.plan.Sysctl) == 0 {
		return nil
	}
	proc, err := inroot.OpenProc()
	if err != nil {
		return err
	}
	defer proc.Close()
	for _, kv := range s.plan.Sysctl {
		if err := proc.Write("sys/"+kv.Key, kv.Value); err != nil {
			return fmt.Errorf("linux.sysctl: %w", err)
		}
	}
	return nil
}
