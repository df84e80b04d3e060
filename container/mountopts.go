package container

import (
	"fmt"
	"path"
	"strings"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// attrOption is a mount option that is a flag of the mount.
type attrOption struct {
	attr  uint64
	clear bool
}

// attrOptions are known with an "r" in front, too: for the whole tree.
var attrOptions = map[string]attrOption{
	"ro": {unix.MOUNT_ATTR_RDONLY, false}, "rw": {unix.MOUNT_ATTR_RDONLY, true},
	"nosuid": {unix.MOUNT_ATTR_NOSUID, false}, "suid": {unix.MOUNT_ATTR_NOSUID, true},
	"nodev": {unix.MOUNT_ATTR_NODEV, false}, "dev": {unix.MOUNT_ATTR_NODEV, true},
	"noexec": {unix.MOUNT_ATTR_NOEXEC, false}, "exec": {unix.MOUNT_ATTR_NOEXEC, true},
	"nodiratime": {unix.MOUNT_ATTR_NODIRATIME, false}, "diratime": {unix.MOUNT_ATTR_NODIRATIME, true},
	"nosymfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, false}, "symfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, true},
	"noatime": {unix.MOUNT_ATTR_NOATIME, false}, "atime": {unix.MOUNT_ATTR__ATIME, true},
	"strictatime": {unix.MOUNT_ATTR_STRICTATIME, false}, "nostrictatime": {unix.MOUNT_ATTR__ATIME, true},
	"relatime": {unix.MOUNT_ATTR__ATIME, true}, "norelatime": {unix.MOUNT_ATTR_STRICTATIME, false},
}

var propagationOptions = map[string]uint64{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
	"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// propagation reads linux.rootfsPropagation.
func propagation(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	how, ok := propagationOptions[s]
	if !ok {
		return 0, fmt.Errorf("%q is not one of shared, slave, private and unbindable", s)
	}
	return how, nil
}

// meaningless are options that mount(8) knows and that ask for nothing here.
var meaningless = map[string]bool{"defaults": true, "async": true, "noiversion": true, "loud": true, "nomand": true, "mand": true, "silent": true, "iversion": true}

// mount is a parsed mount: its plan, and what only the runtime does.
type mount struct {
	plan.Mount
	idmap, ridmap bool
}

// parseMount reads type and options of a mount.
func parseMount(m *specs.Mount) (*mount, error) {
	out := &mount{Mount: plan.Mount{
		Kind: plan.FileSystem, Type: m.Type, Source: m.Source, Dest: path.Clean("/" + m.Destination), SourceFD: plan.None,
	}}
	var data []plan.Pair
	for _, o := range m.Options {
		if strings.IndexByte(o, 0) >= 0 {
			return nil, fmt.Errorf("option %q has a NUL byte", o)
		}
		if a, ok := attrOptions[o]; ok {
			put(&out.AttrSet, &out.AttrClear, a)
			continue
		}
		if a, ok := attrOptions[strings.TrimPrefix(o, "r")]; ok && strings.HasPrefix(o, "r") {
			put(&out.RecSet, &out.RecClear, a)
			continue
		}
		if how, ok := propagationOptions[o]; ok {
			out.Propagation = append(out.Propagation, how)
			continue
		}
		switch o {
		case "bind":
			out.Kind = plan.Bind
		case "rbind":
			out.Kind, out.Recursive = plan.Bind, true
		case "tmpcopyup":
			out.CopyUp = true
		case "idmap":
			out.idmap = true
		case "ridmap":
			out.ridmap = true
		case "copy-symlink", "src-nofollow":
			out.NoFollow = true
		case "remount":
			return nil, fmt.Errorf("option %q: a new mount cannot be one", o)
		default:
			if !meaningless[o] && o != "" {
				k, v, _ := strings.Cut(o, "=")
				data = append(data, plan.Pair{Key: k, Value: v})
			}
		}
	}
	if m.Type == "bind" {
		out.Kind = plan.Bind
	}
	switch {
	case out.Kind == plan.Bind:
		// Options of a file system mean nothing for a tree that exists.
		if m.Source == "" {
			return nil, fmt.Errorf("a bind mount needs a source")
		}
	case m.Type == "cgroup" || m.Type == "cgroup2":
		out.Kind = plan.Cgroup
	case m.Type == "":
		return nil, fmt.Errorf("neither a type nor bind is given")
	case out.CopyUp && m.Type != "tmpfs":
		return nil, fmt.Errorf("tmpcopyup is for tmpfs")
	default:
		out.Options = data
	}
	if (out.idmap || out.ridmap || len(m.UIDMappings) > 0) && out.Kind != plan.Bind {
		return nil, fmt.Errorf("only bind mounts can be id-mapped")
	}
	return out, nil
}

// put merges one flag; the last one given wins.
func put(set, clr *uint64, a attrOption) {
	if a.attr&unix.MOUNT_ATTR__ATIME != 0 {
		*set &^= unix.MOUNT_ATTR__ATIME
	}
	if a.clear {
		*set, *clr = *set&^a.attr, *clr|a.attr
	} else {
		*set, *clr = *set|a.attr, *clr&^a.attr
	}
}
