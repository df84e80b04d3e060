package container

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOf is the mount point of the mount that path is in.
func mountOf(path string) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return "", &os.PathError{Op: "statx", Path: path, Err: err}
	}
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return "", err
	}
	id := strconv.FormatUint(st.Mnt_id, 10)
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) >= 5 && f[0] == id {
			return unescape.Replace(f[4]), nil
		}
	}
	return "", fmt.Errorf("linux.rootfsPropagation: the mount that %s is in is not in mountinfo", path)
}

// unescape undoes mountinfo's encoding of blanks.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
