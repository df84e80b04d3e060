package confine

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Access is what may be done below a directory, or with a file: the kernel's
// LANDLOCK_ACCESS_FS_ bits.
type Access uint64

// What a Rule may allow. A file takes of each what makes sense for one.
const (
	// Read lets files be read and directories listed.
	Read Access = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	// Write lets files that are there be written.
	Write Access = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	// Unlink lets names of files be removed.
	Unlink Access = unix.LANDLOCK_ACCESS_FS_REMOVE_FILE
	// Rmdir lets empty directories be removed.
	Rmdir Access = unix.LANDLOCK_ACCESS_FS_REMOVE_DIR
	// Mkdir lets directories be made.
	Mkdir Access = unix.LANDLOCK_ACCESS_FS_MAKE_DIR
	// Create lets files and directories be made, removed and renamed.
	Create Access = unix.LANDLOCK_ACCESS_FS_MAKE_REG | Mkdir | unix.LANDLOCK_ACCESS_FS_REFER | Unlink | Rmdir
	// Special lets sockets, pipes, links and devices be made.
	Special Access = unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_SYM |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
	// Execute lets programs be executed.
	Execute Access = unix.LANDLOCK_ACCESS_FS_EXECUTE
)

// ofFiles are the bits that a rule for a file may have.
const ofFiles = Access(unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE)

// Rule allows something with the file Path, or with all that lies below the
// directory Path, through whatever mounts. One whose path does not exist allows
// nothing.
type Rule struct {
	Path   string
	Access Access
	// Stays makes a rule of one that is of use only to a process that stays who it is:
	// it is left out when that becomes Policy.User.
	Stays bool
}

// errNoLandlock says that this kernel cannot confine files.
var errNoLandlock = errors.New("files are not confined: the kernel has no Landlock (Linux 5.13, and `landlock` among its LSMs)")

// handled is all that a version of the kernel's interface can forbid.
func handled(abi int) Access {
	all := Read | Write | Create | Special | Execute
	if abi < 2 { // then renames from one directory into another are forbidden
		all &^= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi < 3 {
		all &^= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	return all
}

// restrictFiles forbids everything about files that rules do not allow. It
// returns the version of the kernel's interface.
func restrictFiles(rules []Rule) (abi int, err error) {
	if abi, err = landlockVersion(); err != nil {
		return 0, err
	}
	all := handled(abi)
	set, err := newRuleset(all)
	if err != nil {
		return 0, err
	}
	defer unix.Close(set)
	for _, r := range rules {
		if err := addRule(set, r, all); err != nil {
			return 0, err
		}
	}
	return abi, everyThread("landlock_restrict_self", unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(set), 0, 0)
}

func addRule(set int, r Rule, all Access) error {
	fd, err := unix.Open(r.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: r.Path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		r.Access &= ofFiles
	}
	if r.Access &= all; r.Access == 0 {
		return nil
	}
	if err := landlockAdd(set, fd, r.Access); err != nil {
		return fmt.Errorf("Landlock rule for %s: %w", r.Path, err)
	}
	return nil
}
