package nscontainer

import (
	"slices"

	"github.com/hvctl/hvctl/internal/userns"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// feasible lowers those limits that nobody asked for, the defaults, to what
// this process may give: without CAP_SYS_RESOURCE that is its own hard limit.
// What a user asked for stays, and fails with its name.
func feasible(limits []specs.POSIXRlimit) []specs.POSIXRlimit {
	if m, err := userns.Current(); err == nil && m.Initial() && capable(unix.CAP_SYS_RESOURCE) {
		return limits
	}
	limits = slices.Clone(limits)
	for i, r := range limits {
		if !slices.Contains(workload.DefaultRlimits(), r) || r.Type != "RLIMIT_NOFILE" {
			continue
		}
		var own unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_NOFILE, &own) == nil {
			limits[i].Hard, limits[i].Soft = min(r.Hard, own.Max), min(r.Soft, own.Max)
		}
	}
	return limits
}

// capable tells whether this process has a capability.
func capable(c uint) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[c/32].Effective&(1<<(c%32)) != 0
}
