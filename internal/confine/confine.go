package confine

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/capability"
)

// Policy is what a process may go on to do. The zero value leaves it its memory,
// its threads, and what it has open.
type Policy struct {
	// Files are what it may open. Nil leaves all files as they are, to the
	// permissions of the process.
	Files []Rule
	// Starter is the mount namespace of who started this process, as MountNamespace
	// names it. A process that is in another one has that for itself, and gets a root
	// directory with nothing but Files in it, where it has the rights for that. Empty:
	// it is in the starter's.
	Starter string
	// Sockets are the address families that it may make sockets of. What it has
	// open, it may use, and accept connections on.
	Sockets []int
	// User is the user and group ID that it goes on as, with Groups beside, if it gets a
	// root directory of its own: on the way to its files there are others' directories,
	// which are none of its root. It keeps no capabilities then. 0: it stays who it is.
	User   int
	Groups []int
	// Gives are files and directories that become that user's, with what is in them, and
	// GivesDirs such of whose content it is only the directories.
	Gives, GivesDirs []string
	// Capabilities are those it keeps, by number.
	Capabilities []uint
	// Owners lets it change owners, modes and attributes of files, and make links
	// and devices, as far as Files and Capabilities let it.
	Owners bool
	// Programs lets it start programs, which are confined as it is.
	Programs bool
}

// Report says what holds after Apply.
type Report struct {
	// Landlock is the version of the kernel's interface; 0: files are not confined.
	Landlock int `json:"landlock"`
	// Root tells whether it has a root directory of its own.
	Root bool `json:"root"`
	// User is the user ID that it took; 0: it stays who it was.
	User int `json:"user,omitempty"`
	// Seccomp tells whether system calls are filtered.
	Seccomp bool `json:"seccomp"`
	// Capabilities are those that were kept and that there were.
	Capabilities []string `json:"capabilities"`
	// Sockets tells whether new sockets can be made, Programs whether programs can
	// be started.
	Sockets  bool `json:"sockets"`
	Programs bool `json:"programs"`
	// Missing are the reasons for what this kernel, or who is in charge of it, does
	// not let us do.
	Missing []string `json:"missing,omitempty"`
}

// Apply confines this process, whatever its threads are doing. There is no way
// back. What the host cannot do is left out and reported; an error means that some
// of the rest may be in force.
func Apply(p Policy) (Report, error) {
	r := Report{Capabilities: []string{}, Sockets: len(p.Sockets) > 0, Programs: p.Programs}
	if err := everyThread("prctl(PR_SET_NO_NEW_PRIVS)", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return r, err
	}
	have, err := capabilities()
	if err != nil {
		return r, err
	}
	if p.Files != nil && have&(1<<unix.CAP_SYS_ADMIN) != 0 && p.aloneInMounts() {
		if err := p.enter(&r); err != nil {
			return r, err
		}
	}
	if p.Files != nil {
		abi, err := restrictFiles(p.filesOf(r.User))
		switch {
		case errors.Is(err, errNoLandlock):
			r.Missing = append(r.Missing, err.Error())
		case err != nil:
			return r, err
		}
		r.Landlock = abi
	}
	if r.User != 0 {
		if err := becomeUser(r.User, p.Groups); err != nil {
			return r, err
		}
		p.Capabilities = nil
	}
	kept, err := dropCapabilities(p.Capabilities)
	if err != nil {
		return r, err
	}
	for i, name := range capability.Names {
		if kept&(1<<i) != 0 {
			r.Capabilities = append(r.Capabilities, name)
		}
	}
	err = filterCalls(p)
	switch {
	case errors.Is(err, errNoSeccomp):
		r.Missing = append(r.Missing, err.Error())
	case err != nil:
		return r, err
	default:
		r.Seccomp = true
	}
	return r, nil
}

// enter gives the process a root directory of its own, where one can be made, and its
// files to the user that it goes on as.
func (p *Policy) enter(r *Report) error {
	if p.User != 0 {
		if err := p.give(p.User, p.User); err != nil {
			r.Missing = append(r.Missing, fmt.Sprintf("the user ID stays root's: %v", err))
		} else {
			r.User = p.User
		}
	}
	err := enterRoot(p.filesOf(r.User))
	if r.Root = err == nil; !r.Root && r.User != 0 {
		r.User = 0
		if err := p.give(os.Geteuid(), os.Getegid()); err != nil {
			return err
		}
	}
	if errors.Is(err, errNoRoot) {
		r.Missing = append(r.Missing, err.Error())
		return nil
	}
	return err
}

// MountNamespace names the one that this process is in.
func MountNamespace() (string, error) { return os.Readlink("/proc/self/ns/mnt") }

// aloneInMounts says whether this process's mount namespace is its own: whoever else
// were in it would lose the host's files.
func (p *Policy) aloneInMounts() bool {
	ns, err := MountNamespace()
	return err == nil && p.Starter != "" && ns != p.Starter
}

// dropCapabilities leaves keep, as far as the process has them, and returns what
// is left. The bounding set stays: with no_new_privs a program that is executed
// has no more than who executes it, and dropping forty capabilities on every
// thread takes 2 ms.
func dropCapabilities(keep []uint) (kept uint64, err error) {
	have, err := capabilities()
	if err != nil || have == 0 && os.Geteuid() != 0 { // they went with root's user ID
		return 0, err
	}
	for n := range uint(64) {
		if have&(1<<n) != 0 && slices.Contains(keep, n) {
			kept |= 1 << n
		}
	}
	err = everyThread("prctl(PR_CAP_AMBIENT)", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
	if err != nil && !errors.Is(err, unix.EINVAL) { // a kernel without
		return 0, err
	}
	return kept, setCapabilities(kept)
}
