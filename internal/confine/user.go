package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// filesOf are the rules for a process that becomes user; 0: that stays who it is.
func (p *Policy) filesOf(user int) []Rule {
	if user == 0 {
		return p.Files
	}
	return slices.DeleteFunc(slices.Clone(p.Files), func(r Rule) bool { return r.Stays })
}

// give makes the files of Gives and GivesDirs a user's. After an error those that were
// given before are taken back.
func (p *Policy) give(user, group int) error {
	for _, path := range p.Gives {
		if err := own(path, user, group, false); err != nil {
			return errors.Join(err, p.takeBack(user))
		}
	}
	for _, path := range p.GivesDirs {
		if err := own(path, user, group, true); err != nil {
			return errors.Join(err, p.takeBack(user))
		}
	}
	return nil
}

func (p *Policy) takeBack(user int) error {
	if user == os.Geteuid() {
		return nil
	}
	return p.give(os.Geteuid(), os.Getegid())
}

// own changes the owner of what lies at path, or of the directories of that. Links are
// not followed, and a file that goes away meanwhile is no error.
func own(path string, user, group int, dirs bool) error {
	return filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err == nil && (e.IsDir() || !dirs) {
			err = os.Lchown(name, user, group)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

// becomeUser makes every thread the user's and the group's of that number, with
// groups beside, and no other's. The kernel takes the capabilities with root's user ID,
// and leaves /proc/self to root: nobody else with that number can look into the
// process.
func becomeUser(id int, groups []int) error {
	if have, err := unix.Getgroups(); err != nil || !slices.Equal(have, groups) {
		if err := syscall.Setgroups(groups); err != nil {
			return os.NewSyscallError("setgroups", err)
		}
	}
	if err := syscall.Setresgid(id, id, id); err != nil {
		return fmt.Errorf("group %d: %w", id, os.NewSyscallError("setresgid", err))
	}
	if err := syscall.Setresuid(id, id, id); err != nil {
		return fmt.Errorf("user %d: %w", id, os.NewSyscallError("setresuid", err))
	}
	return nil
}
