package container

import (
	"maps"
	"slices"

	"github.com/hvctl/hvctl/internal/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features is what this runtime knows of the specification, whatever the host
// has of it (features.md).
func Features() *features.Features {
	yes, no := new(true), new(false)
	var namespaces []string
	for _, t := range slices.Sorted(maps.Keys(namespaceFlags)) {
		namespaces = append(namespaces, string(t))
	}
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  mountOptionNames(),
		// runc's name for it; whether the host has a CRIU that works is another matter.
		Annotations: map[string]string{"org.opencontainers.runc.checkpoint.enabled": "true"},
		Linux: &features.Linux{
			Namespaces:   namespaces,
			Capabilities: slices.Clone(capability.Names[:]),
			Cgroup:       &features.Cgroup{V1: yes, V2: yes, Systemd: yes, SystemdUser: yes, Rdma: yes},
			Seccomp: &features.Seccomp{
				Enabled: yes,
				Actions: []string{
					string(specs.ActAllow), string(specs.ActErrno), string(specs.ActKill), string(specs.ActKillProcess),
					string(specs.ActKillThread), string(specs.ActLog), string(specs.ActNotify), string(specs.ActTrace), string(specs.ActTrap),
				},
				Operators: []string{
					string(specs.OpEqualTo), string(specs.OpGreaterEqual), string(specs.OpGreaterThan), string(specs.OpLessEqual),
					string(specs.OpLessThan), string(specs.OpMaskedEqual), string(specs.OpNotEqual),
				},
				Archs:          []string{string(specs.ArchX32), string(specs.ArchX86), string(specs.ArchX86_64)},
				KnownFlags:     seccompFlags(),
				SupportedFlags: seccompFlags(),
			},
			Apparmor:        &features.Apparmor{Enabled: yes},
			Selinux:         &features.Selinux{Enabled: yes},
			IntelRdt:        &features.IntelRdt{Enabled: no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: yes}},
			NetDevices:      &features.NetDevices{Enabled: no},
		},
	}
}

func seccompFlags() []string {
	return []string{
		string(specs.LinuxSeccompFlagLog), string(specs.LinuxSeccompFlagSpecAllow), "SECCOMP_FILTER_FLAG_TSYNC",
		string(specs.LinuxSeccompFlagWaitKillableRecv),
	}
}

// mountOptionNames are the options that have a meaning here; all others go to
// the file system.
func mountOptionNames() []string {
	names := []string{"bind", "rbind", "tmpcopyup", "idmap", "ridmap", "copy-symlink", "src-nofollow"}
	for n := range attrOptions {
		names = append(names, n, "r"+n)
	}
	names = append(slices.AppendSeq(names, maps.Keys(propagationOptions)), slices.Collect(maps.Keys(meaningless))...)
	slices.Sort(names)
	return names
}
