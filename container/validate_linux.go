package container

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// namespaceFlags are the namespaces and what they are to clone(2).
var namespaceFlags = map[specs.LinuxNamespaceType]uint32{
	specs.PIDNamespace: unix.CLONE_NEWPID, specs.NetworkNamespace: unix.CLONE_NEWNET, specs.MountNamespace: unix.CLONE_NEWNS,
	specs.IPCNamespace: unix.CLONE_NEWIPC, specs.UTSNamespace: unix.CLONE_NEWUTS, specs.UserNamespace: unix.CLONE_NEWUSER,
	specs.CgroupNamespace: unix.CLONE_NEWCGROUP, specs.TimeNamespace: unix.CLONE_NEWTIME,
}

// namespaceOf is the entry for a type; nil: the host's is used.
func namespaceOf(s *specs.Spec, t specs.LinuxNamespaceType) *specs.LinuxNamespace {
	if s.Linux == nil {
		return nil
	}
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == t {
			return &s.Linux.Namespaces[i]
		}
	}
	return nil
}

func (c *checker) linux(s *specs.Spec) {
	l := s.Linux
	c.namespaces(s)
	for i, d := range l.Devices {
		c.device(fmt.Sprintf("linux.devices[%d]", i), &l.Devices[i], d.Path)
	}
	for k, v := range l.Sysctl {
		c.sysctl(s, k, v)
	}
	if _, err := propagation(l.RootfsPropagation); err != nil {
		c.add("linux.rootfsPropagation", "%v", err)
	}
	for i, p := range l.MaskedPaths {
		c.abs(fmt.Sprintf("linux.maskedPaths[%d]", i), p)
	}
	for i, p := range l.ReadonlyPaths {
		c.abs(fmt.Sprintf("linux.readonlyPaths[%d]", i), p)
	}
	if slices.Contains(strings.Split(l.CgroupsPath, "/"), "..") {
		c.add("linux.cgroupsPath", "%q leads upwards", l.CgroupsPath)
	}
	c.noNUL("linux.cgroupsPath", l.CgroupsPath)
	c.noNUL("linux.mountLabel", l.MountLabel)
	if len(l.TimeOffsets) > 0 {
		if ns := namespaceOf(s, specs.TimeNamespace); ns == nil || ns.Path != "" {
			c.add("linux.timeOffsets", "needs a new time namespace in linux.namespaces")
		}
	}
	for k, o := range l.TimeOffsets {
		if k != "monotonic" && k != "boottime" {
			c.add("linux.timeOffsets."+k, "is no clock with an offset; use monotonic or boottime")
		}
		if o.Nanosecs >= 1e9 {
			c.add("linux.timeOffsets."+k+".nanosecs", "%d is a second or more", o.Nanosecs)
		}
	}
	if _, err := personalityPlan(l.Personality); err != nil {
		c.add("linux.personality", "%v", err)
	}
	if l.IntelRdt != nil {
		c.add("linux.intelRdt", "is not supported by this runtime")
	}
	if l.MemoryPolicy != nil {
		c.add("linux.memoryPolicy", "is not supported by this runtime")
	}
	if len(l.NetDevices) > 0 {
		c.add("linux.netDevices", "are not supported by this runtime")
	}
}

func (c *checker) namespaces(s *specs.Spec) {
	l := s.Linux
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, ns := range l.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		if namespaceFlags[ns.Type] == 0 {
			c.add(field+".type", "%q is unknown", ns.Type)
		}
		if seen[ns.Type] {
			c.add(field+".type", "%q appears twice", ns.Type)
		}
		seen[ns.Type] = true
		if ns.Path != "" {
			c.abs(field+".path", ns.Path)
		}
	}
	user := namespaceOf(s, specs.UserNamespace)
	isNew := user != nil && user.Path == ""
	for _, m := range []struct {
		field string
		list  []specs.LinuxIDMapping
	}{{"linux.uidMappings", l.UIDMappings}, {"linux.gidMappings", l.GIDMappings}} {
		c.mappings(m.field, m.list)
		root := slices.ContainsFunc(m.list, func(e specs.LinuxIDMapping) bool { return e.ContainerID == 0 })
		switch {
		case user == nil && len(m.list) > 0:
			c.add(m.field, "needs a user namespace in linux.namespaces")
		case isNew && len(m.list) == 0:
			c.add(m.field, "is needed for a new user namespace")
		case isNew && !root:
			c.add(m.field, "does not map the container's root (ID 0)")
		}
	}
}

func (c *checker) mappings(field string, list []specs.LinuxIDMapping) {
	const most = 340 // the kernel's own bound
	if len(list) > most {
		c.add(field, "has more than %d entries", most)
		return
	}
	for i, m := range list {
		if m.Size == 0 {
			c.add(fmt.Sprintf("%s[%d].size", field, i), "is 0")
		}
		if uint64(m.ContainerID)+uint64(m.Size) > 1<<32-1 || uint64(m.HostID)+uint64(m.Size) > 1<<32-1 {
			c.add(fmt.Sprintf("%s[%d]", field, i), "goes beyond the largest ID")
		}
	}
}

func (c *checker) device(field string, d *specs.LinuxDevice, p string) {
	c.abs(field+".path", p)
	if path.Clean(p) == "/" {
		c.add(field+".path", "is the root")
	}
	if _, err := deviceMode(d); err != nil {
		c.add(field+".type", "%v", err)
	}
	if d.Major < 0 || d.Minor < 0 || d.Major > 1<<12-1 || d.Minor > 1<<20-1 {
		c.add(field, "device number %d:%d is out of range", d.Major, d.Minor)
	}
}

// ipcSysctls belong to the ipc namespace.
var ipcSysctls = []string{
	"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni",
	"kernel/shm_rmid_forced",
}

func (c *checker) sysctl(s *specs.Spec, key, value string) {
	field := "linux.sysctl." + key
	c.noNUL(field, key+value)
	k := sysctlPath(key)
	switch need := sysctlNamespace(k); {
	case k == "" || path.Clean("/"+k) != "/"+k:
		c.add(field, "is not a parameter's name")
	case k == "kernel/hostname":
		c.add(field, "use hostname for this")
	case need == "":
		c.add(field, "is not in any namespace: it would change the host's")
	case namespaceOf(s, need) == nil:
		c.add(field, "needs a %s namespace in linux.namespaces, it would change the host's", need)
	}
}

// sysctlNamespace is the kind of namespace that the parameter at a path below
// /proc/sys belongs to; "" for one that is the whole system's.
func sysctlNamespace(k string) specs.LinuxNamespaceType {
	switch {
	case slices.Contains(ipcSysctls, k), strings.HasPrefix(k, "fs/mqueue/"):
		return specs.IPCNamespace
	case strings.HasPrefix(k, "net/"):
		return specs.NetworkNamespace
	case k == "kernel/domainname", k == "kernel/hostname":
		return specs.UTSNamespace
	}
	return ""
}

// sysctlPath is a parameter's path below /proc/sys: "net.ipv4.ip_forward" and
// "net/ipv4/conf/eth0.1/mtu" are both usual.
func sysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i < 0 || key[i] == '/' {
		return key
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}
