package container

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// nsPlan says which namespaces are made, by whom, and which are joined.
type nsPlan struct {
	clone   uint32              // made by the clone
	unshare uint32              // made by the stage
	pid     *os.File            // joined by the clone
	user    *os.File            // joined before everything
	join    map[uint32]*os.File // joined by the stage
	order   []uint32            // of join
}

// stageMakes are made by the process itself: a cgroup namespace shows the
// group one is in when it is made, and time offsets are set before anybody is
// in the namespace.
const stageMakes = unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME

// openNamespaces sorts the configuration's namespaces and opens those given by
// path. The caller closes them.
func openNamespaces(s *specs.Spec) (*nsPlan, error) {
	n := &nsPlan{join: map[uint32]*os.File{}}
	if s.Linux == nil {
		return n, nil
	}
	for i, ns := range s.Linux.Namespaces {
		flag := namespaceFlags[ns.Type]
		if ns.Path == "" {
			if flag&stageMakes != 0 {
				n.unshare |= flag
			} else {
				n.clone |= flag
			}
			continue
		}
		f, err := openNamespace(ns.Path, flag)
		if field := namesOf(s, ns.Type); err == nil && field != "" && isOurs(f, flag) {
			f.Close()
			err = fmt.Errorf("%s is our own, where %s would change the host's: make a new one", ns.Path, field)
		}
		if err != nil {
			n.close()
			return nil, fmt.Errorf("linux.namespaces[%d] (%s): %w", i, ns.Type, err)
		}
		switch flag {
		case unix.CLONE_NEWPID:
			n.pid = f
		case unix.CLONE_NEWUSER:
			n.user = f
		default:
			n.join[flag] = f
			n.order = append(n.order, flag)
		}
	}
	return n, nil
}

// namesOf is a field that changes something in the namespace of that kind; ""
// without.
func namesOf(s *specs.Spec, kind specs.LinuxNamespaceType) string {
	for _, k := range slices.Sorted(maps.Keys(s.Linux.Sysctl)) {
		if sysctlNamespace(sysctlPath(k)) == kind {
			return "linux.sysctl." + k
		}
	}
	switch {
	case kind == specs.UTSNamespace && s.Hostname != "":
		return "hostname"
	case kind == specs.UTSNamespace && s.Domainname != "":
		return "domainname"
	}
	return ""
}

// isOurs says that an open namespace is the one that we are in.
func isOurs(f *os.File, flag uint32) bool {
	file := map[uint32]string{unix.CLONE_NEWNET: "net", unix.CLONE_NEWIPC: "ipc", unix.CLONE_NEWUTS: "uts"}[flag]
	var a, b unix.Stat_t
	return unix.Fstat(int(f.Fd()), &a) == nil && unix.Stat("/proc/self/ns/"+file, &b) == nil && a.Ino == b.Ino && a.Dev == b.Dev
}

// openNamespace opens a namespace and verifies that it is one of that kind.
func openNamespace(path string, flag uint32) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0) // it may be a pipe
	if err != nil {
		return nil, err
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err == nil && kind != int(flag) {
		err = errors.New("it is a namespace of another type")
	} else if err != nil {
		err = errors.New("it is not a namespace")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// close lets go of what is open; nil has nothing.
func (n *nsPlan) close() {
	if n == nil {
		return
	}
	for _, f := range n.join {
		f.Close()
	}
	for _, f := range []*os.File{n.pid, n.user} {
		if f != nil {
			f.Close()
		}
	}
}

// idMaps are the mappings of a new user namespace.
func idMaps(list []specs.LinuxIDMapping) []syscall.SysProcIDMap {
	var out []syscall.SysProcIDMap
	for _, m := range list {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	return out
}

// sameNamespace says whether a process and we are in the same namespace.
func sameNamespace(pid int, kind string) bool {
	var a, b unix.Stat_t
	return unix.Stat("/proc/self/ns/"+kind, &a) == nil && unix.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), &b) == nil &&
		a.Ino == b.Ino && a.Dev == b.Dev
}
