package prepare

import (
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// guestMounts are what hvinit mounts itself, for the guest that it is in, and
// of which types a configuration may name them.
var guestMounts = map[string][]string{
	"/proc": {"proc"}, "/sys": {"sysfs"}, "/sys/fs/cgroup": {"cgroup", "cgroup2"}, "/dev": {"tmpfs"},
	"/dev/pts": {"devpts"}, "/dev/shm": {"tmpfs"}, "/dev/mqueue": {"mqueue"},
}

// standardMount tells whether m is one that OCI bundles carry for every
// container, as the specification's examples have them. The guest has its own.
func standardMount(m specs.Mount) bool {
	return slices.Contains(guestMounts[m.Destination], m.Type)
}

// refuse lists what an OCI configuration asks for that a VM cannot do: what
// is left out silently would be believed to hold.
func refuse(s *specs.Spec) []error {
	if s == nil {
		return nil
	}
	var errs []error
	no := func(is bool, field, why string) {
		if is {
			errs = append(errs, fmt.Errorf("%s: %s", field, why))
		}
	}
	for i, m := range s.Mounts {
		field := fmt.Sprintf("mounts[%d] (%s on %s)", i, m.Type, m.Destination)
		switch {
		case standardMount(m):
		case guestMounts[m.Destination] != nil:
			no(true, field, "the guest mounts that itself, with options of its own")
		case m.Type == "bind":
			errs = append(errs, refuseShare(field, m)...)
		case m.Type != "tmpfs":
			no(true, field, "a VM can be given directories of the host (bind), tmpfs and --disk")
		}
		no(len(m.UIDMappings)+len(m.GIDMappings) > 0, field+".uidMappings", "there is no mapping into a VM")
	}
	no(s.Hooks != nil, "hooks", "there are no namespaces of a VM on the host that they could enter")
	no(s.Domainname != "", "domainname", "the guest's agent cannot set it")
	if p := s.Process; p != nil {
		no(p.ApparmorProfile != "", "process.apparmorProfile", noLSM)
		no(p.SelinuxLabel != "", "process.selinuxLabel", noLSM)
		no(p.Scheduler != nil, "process.scheduler", "the guest's scheduler is not the host's")
		no(p.IOPriority != nil, "process.ioPriority", "the guest's disks are not the host's")
		no(p.ExecCPUAffinity != nil, "process.execCPUAffinity", "the guest's processors are not the host's")
	}
	if s.Linux != nil {
		errs = append(errs, refuseLinux(s.Linux)...)
	}
	return errs
}

// shareOptions are those of a bind mount that a shared directory has in the
// guest, too.
var shareOptions = []string{
	"bind", "rbind", "private", "rprivate", "ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime", "nodiratime",
}

func refuseShare(field string, m specs.Mount) []error {
	var errs []error
	for _, o := range m.Options {
		if !slices.Contains(shareOptions, o) {
			errs = append(errs, fmt.Errorf("%s.options: %q has no meaning for a directory shared with a VM", field, o))
		}
	}
	if _, err := os.Stat(m.Source); err != nil {
		errs = append(errs, fmt.Errorf("%s.source: %w; make it first", field, err))
	}
	return errs
}

const noLSM = "the guest's kernel has no such policy loaded"

func refuseLinux(l *specs.Linux) []error {
	var errs []error
	no := func(is bool, field, why string) {
		if is {
			errs = append(errs, fmt.Errorf("linux.%s: %s", field, why))
		}
	}
	for i, n := range l.Namespaces {
		no(n.Path != "", fmt.Sprintf("namespaces[%d].path", i), "a VM joins no namespaces of the host")
	}
	no(len(l.UIDMappings)+len(l.GIDMappings) > 0, "uidMappings", "the guest's users are its own already")
	no(len(l.TimeOffsets) > 0, "timeOffsets", "the guest's agent cannot set them")
	no(len(l.Devices) > 0, "devices", "a VM has no devices of the host; use --disk")
	no(len(l.NetDevices) > 0, "netDevices", "a VM has no devices of the host")
	no(l.RootfsPropagation != "" && l.RootfsPropagation != "private" && l.RootfsPropagation != "rprivate", "rootfsPropagation", "mounts do not propagate out of a VM")
	no(l.MountLabel != "", "mountLabel", noLSM)
	no(l.IntelRdt != nil, "intelRdt", "not for VMs")
	no(l.MemoryPolicy != nil, "memoryPolicy", "the guest's memory is not laid out by nodes of the host")
	no(l.Personality != nil, "personality", "the guest's agent cannot set it")
	if r := l.Resources; r != nil {
		no(len(r.Devices)+len(r.HugepageLimits)+len(r.Rdma)+len(r.Unified) > 0 || r.Network != nil || r.BlockIO != nil || r.Memory != nil || r.CPU != nil || r.Pids != nil,
			"resources", "a VM's limits are --cpus, --cpu-weight, --memory and --pids-limit")
	}
	return errs
}
