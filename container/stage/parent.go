package stage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// privateParent makes the mount that path is in private: pivot_root and the
// mount of the root file system must not appear on the host.
func privateParent(path string) error {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return &os.PathError{Op: "statx", Path: path, Err: err}
	}
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	id := strconv.FormatUint(st.Mnt_id, 10)
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) < 5 || f[0] != id {
			continue
		}
		point := unescape.Replace(f[4])
		if err := unix.Mount("", point, "", unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make %s private: %w", point, err)
		}
		return nil
	}
	return errors.New("linux.rootfsPropagation: the mount of the root file system is not in mountinfo")
}

// unescape undoes mountinfo's encoding of blanks.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

func isMissing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}
