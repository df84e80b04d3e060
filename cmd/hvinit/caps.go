package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/hvctl/hvctl/internal/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capSets are the five sets as bit masks.
type capSets struct {
	bounding, effective, permitted, inheritable, ambient uint64
}

func parseCaps(c *specs.LinuxCapabilities) (capSets, error) {
	var s capSets
	for _, set := range []struct {
		names []string
		mask  *uint64
	}{
		{c.Bounding, &s.bounding},
		{c.Effective, &s.effective},
		{c.Permitted, &s.permitted},
		{c.Inheritable, &s.inheritable},
		{c.Ambient, &s.ambient},
	} {
		for _, name := range set.names {
			n, ok := capability.Number(name)
			if !ok {
				return s, fmt.Errorf("capability %q is unknown", name)
			}
			// One that this kernel does not have yet cannot be given, and
			// nothing can need it.
			if uintptr(n) <= lastCap() {
				*set.mask |= 1 << n
			}
		}
	}
	return s, nil
}

// lastCap is the highest capability the kernel knows.
var lastCap = sync.OnceValue(func() uintptr {
	b, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return uintptr(len(capability.Names) - 1)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 8)
	if err != nil || n > 62 {
		return uintptr(len(capability.Names) - 1)
	}
	return uintptr(n)
})

// rlimits are the OCI names of the resource limits.
var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU,
	"RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE,
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}
