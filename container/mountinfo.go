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
	mounts, err := readMounts("/proc/thread-self/mountinfo")
	if err != nil {
		return "", err
	}
	id := strconv.FormatUint(st.Mnt_id, 10)
	for _, m := range mounts {
		if m.id == id {
			return m.at, nil
		}
	}
	return "", fmt.Errorf("linux.rootfsPropagation: the mount that %s is in is not in mountinfo", path)
}

// mounted is a line of mountinfo (proc_pid_mountinfo(5)).
type mounted struct {
	id   string
	root string // what of its file system it shows
	at   string // mount point
}

// mountsOf are the mounts that a process sees.
func mountsOf(pid int) ([]mounted, error) { return readMounts(fmt.Sprintf("/proc/%d/mountinfo", pid)) }

func readMounts(file string) ([]mounted, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []mounted
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) >= 5 {
			out = append(out, mounted{f[0], unescape.Replace(f[3]), unescape.Replace(f[4])})
		}
	}
	return out, nil
}

// unescape undoes mountinfo's encoding of blanks.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
