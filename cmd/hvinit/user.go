package main

import (
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxUserFile bounds /etc/passwd and /etc/group of an image.
const maxUserFile = 4 << 20

// creds is who a process runs as.
type creds struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// lookup resolves "user[:group]", each a name or a number, with the image's own
// user database. An empty string takes ids from the OCI user. A name that does
// not exist is an error: falling back to root would be the worst answer.
func lookup(user string, u specs.User, passwd, group []byte) (creds, error) {
	c := creds{uid: u.UID, gid: u.GID, home: "/"}
	name, groupName, hasGroup := strings.Cut(user, ":")
	uid, numeric := parseID(name)
	if name == "" {
		uid, numeric = u.UID, true
	}
	entry, found := findUser(passwd, name, uid, numeric)
	switch {
	case found:
		c.home = entry.home
		c.uid = entry.uid
		if user != "" {
			c.gid = entry.gid
		}
	case !numeric:
		return creds{}, &startError{125, fmt.Sprintf("unable to find user %s: no matching entries in passwd file", name)}
	case user != "":
		c.uid, c.gid = uid, 0
	}
	if hasGroup {
		gid, ok := parseID(groupName)
		if g, found := findGroup(group, groupName); found {
			gid, ok = g, true
		}
		if !ok {
			return creds{}, &startError{125, fmt.Sprintf("unable to find group %s: no matching entries in group file", groupName)}
		}
		c.gid = gid
	}
	if user != "" {
		// The primary group is listed too: without it, a file that denies
		// access to that group could be read through "others".
		c.groups = []uint32{c.gid}
		if found && !hasGroup {
			c.groups = append(c.groups, memberships(group, entry.name, c.gid)...)
		}
	}
	c.groups = append(c.groups, u.AdditionalGids...)
	if c.home == "" {
		c.home = "/"
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

// environment completes env with what every program may expect.
func environment(env []string, c creds, hostname string, terminal bool) []string {
	out := append([]string(nil), env...)
	def := func(key, value string) {
		for _, kv := range env {
			if strings.HasPrefix(kv, key+"=") {
				return
			}
		}
		out = append(out, key+"="+value)
	}
	def("PATH", defaultPath)
	def("HOME", c.home)
	if hostname != "" {
		def("HOSTNAME", hostname)
	}
	if terminal {
		def("TERM", "xterm")
	}
	return out
}
