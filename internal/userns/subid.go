package userns

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

const (
	// most is the number of IDs that there are; one of them means "none".
	most = 1<<32 - 1
	// maxRanges bounds the ranges of one user; the kernel takes 340.
	maxRanges = 300
)

// Range is a row of a mapping.
type Range struct {
	Inside, Outside, Size uint32
}

// Mapping says which users and groups of the host there are in a namespace.
type Mapping struct {
	UIDs, GIDs []Range
	// Helped says that newuidmap and newgidmap have to make it.
	Helped bool
}

// Covers says whether a user and a group exist in the namespace.
func (m Mapping) Covers(uid, gid uint32) bool { return inside(m.UIDs, uid) && inside(m.GIDs, gid) }

func inside(rs []Range, id uint32) bool {
	for _, r := range rs {
		if id >= r.Inside && id-r.Inside < r.Size {
			return true
		}
	}
	return false
}

// own maps an ID to root.
func own(id int) []Range { return []Range{{Outside: uint32(id), Size: 1}} }

// Own is the mapping for a namespace of the calling user's: whoever calls is root
// there, and has the further IDs that the administrator gave it, if there are
// any and both programs are installed. why says what is missing when there are
// none.
func Own() (m Mapping, why string) {
	uid, gid := os.Geteuid(), os.Getegid()
	m = Mapping{UIDs: own(uid), GIDs: own(gid)}
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(program); err != nil {
			return m, fmt.Sprintf("%s is not installed (Debian's package uidmap)", program)
		}
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return m, err.Error() // the programs want a name
	}
	names := []string{u.Uid, u.Username}
	var more [2][]Range
	for i, file := range []string{"/etc/subuid", "/etc/subgid"} {
		f, err := os.Open(file)
		if err != nil {
			return m, err.Error()
		}
		more[i] = parse(f, names)
		_ = f.Close() // it was only read
		if len(more[i]) == 0 {
			return m, fmt.Sprintf("%s has no range for %s", file, strings.Join(names, " or "))
		}
	}
	return Mapping{UIDs: append(m.UIDs, more[0]...), GIDs: append(m.GIDs, more[1]...), Helped: true}, ""
}

// parse reads the ranges of a user from subuid(5), numbered from 1 inside. Lines
// that make no sense are left out, as the programs that map do.
func parse(r io.Reader, names []string) (out []Range) {
	next := uint64(1)
	lines := bufio.NewScanner(r)
	for lines.Scan() && len(out) < maxRanges {
		f := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(f) != 3 || f[0] == "" || !slices.Contains(names, f[0]) {
			continue
		}
		start, err := strconv.ParseUint(f[1], 10, 32)
		if err != nil {
			continue
		}
		size, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil || size == 0 || start+size > most || next+size > most {
			continue
		}
		out = append(out, Range{uint32(next), uint32(start), uint32(size)})
		next += size
	}
	return out
}
