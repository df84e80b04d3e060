package userns

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

// Current is the mapping of the namespace that the process is in.
func Current() (m Mapping, err error) {
	for _, f := range []struct {
		name string
		to   *[]Range
	}{{"/proc/self/uid_map", &m.UIDs}, {"/proc/self/gid_map", &m.GIDs}} {
		b, err := os.ReadFile(f.name)
		if err != nil {
			return m, err
		}
		for line := range strings.Lines(string(b)) {
			var r Range
			if _, err := fmt.Sscan(line, &r.Inside, &r.Outside, &r.Size); err != nil {
				return m, fmt.Errorf("%s: %w", f.name, err)
			}
			*f.to = append(*f.to, r)
		}
	}
	return m, nil
}

// hostNS is the host's user namespace: the kernel gives it this number
// (PROC_USER_INIT_INO).
const hostNS = "user:[4026531837]"

// IsHost says whether the process is in the host's user namespace. It is quick.
var IsHost = sync.OnceValue(func() bool {
	ns, err := os.Readlink("/proc/self/ns/user")
	return err != nil || ns == hostNS // no such file: a kernel without user namespaces
})

// Initial says whether the namespace is the host's: where every ID is mapped to
// itself.
func (m Mapping) Initial() bool {
	return len(m.UIDs) == 1 && m.UIDs[0] == Range{Size: most}
}

// SetgroupsAllowed says whether processes of the namespace may leave groups
// (setgroups(2)): not where an ordinary user mapped its own group alone, for
// who leaves a group may be let in where it was kept out.
func SetgroupsAllowed() bool {
	b, err := os.ReadFile("/proc/self/setgroups")
	return err != nil || strings.TrimSpace(string(b)) != "deny" // no such file: an old kernel, which allows it
}
