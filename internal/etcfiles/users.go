package etcfiles

import (
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// MaxUserFile bounds /etc/passwd and /etc/group of an image, in bytes.
const MaxUserFile = 4 << 20

// Creds is who a process runs as.
type Creds struct {
	UID, GID uint32
	Groups   []uint32 // supplementary ones
	Home     string
}

// Lookup resolves "user[:group]", each a name or a number, with the image's own
// user database. An empty string takes ids from the OCI user. A name that does
// not exist is an error: falling back to root would be the worst answer.
func Lookup(user string, u specs.User, passwd, group []byte) (Creds, error) {
	c := Creds{UID: u.UID, GID: u.GID, Home: "/"}
	name, groupName, hasGroup := strings.Cut(user, ":")
	uid, numeric := parseID(name)
	if name == "" {
		uid, numeric = u.UID, true
	}
	entry, found := findUser(passwd, name, uid, numeric)
	switch {
	case found:
		c.Home = entry.home
		c.UID = entry.uid
		if user != "" {
			c.GID = entry.gid
		}
	case !numeric:
		return Creds{}, fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
	case user != "":
		c.UID, c.GID = uid, 0
	}
	if hasGroup {
		gid, ok := parseID(groupName)
		if g, found := findGroup(group, groupName); found {
			gid, ok = g, true
		}
		if !ok {
			return Creds{}, fmt.Errorf("unable to find group %s: no matching entries in group file", groupName)
		}
		c.GID = gid
	}
	if user != "" {
		// The primary group is listed too: without it, a file that denies
		// access to that group could be read through "others".
		c.Groups = []uint32{c.GID}
		if found && !hasGroup {
			c.Groups = append(c.Groups, memberships(group, entry.name, c.GID)...)
		}
	}
	c.Groups = append(c.Groups, u.AdditionalGids...)
	if c.Home == "" {
		c.Home = "/"
	}
	return c, nil
}

type passwdEntry struct {
	name     string
	uid, gid uint32
	home     string
}

// findUser finds by name first, then by number, as container engines do: a user
// may be called "1000".
func findUser(passwd []byte, name string, uid uint32, numeric bool) (passwdEntry, bool) {
	var byID passwdEntry
	found := false
	for line := range strings.Lines(string(passwd)) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) < 6 || f[0] == "" {
			continue
		}
		u, ok1 := parseID(f[2])
		g, ok2 := parseID(f[3])
		if !ok1 || !ok2 {
			continue
		}
		e := passwdEntry{name: f[0], uid: u, gid: g, home: f[5]}
		if name != "" && e.name == name {
			return e, true
		}
		if numeric && u == uid && !found {
			byID, found = e, true
		}
	}
	return byID, found
}

func findGroup(group []byte, name string) (uint32, bool) {
	for line := range strings.Lines(string(group)) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) >= 3 && name != "" && f[0] == name {
			return parseID(f[2])
		}
	}
	return 0, false
}

// maxGroups is the kernel's limit of supplementary groups, NGROUPS_MAX.
const maxGroups = 65536

func memberships(group []byte, user string, primary uint32) []uint32 {
	var gids []uint32
	for line := range strings.Lines(string(group)) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) < 4 || len(gids) == maxGroups-1 {
			continue
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if member != user {
				continue
			}
			if g, ok := parseID(f[2]); ok && g != primary {
				gids = append(gids, g)
			}
			break
		}
	}
	return gids
}

// parseID accepts decimal digits below 2^32-1, the value that means "no
// change" to the kernel.
func parseID(s string) (uint32, bool) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, false
	}
	return uint32(n), true
}

// DefaultPath is PATH where nobody sets it.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Environment completes env with what every program may expect.
func Environment(env []string, c Creds, hostname string, terminal bool) []string {
	out := append([]string(nil), env...)
	def := func(key, value string) {
		for _, kv := range env {
			if strings.HasPrefix(kv, key+"=") {
				return
			}
		}
		out = append(out, key+"="+value)
	}
	def("PATH", DefaultPath)
	def("HOME", c.Home)
	if hostname != "" {
		def("HOSTNAME", hostname)
	}
	if terminal {
		def("TERM", "xterm")
	}
	return out
}
