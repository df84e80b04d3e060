package workload

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCapabilities is what docker and containerd give an unprivileged
// container, so that an image behaves here as its author saw it.
var defaultCapabilities = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
}

// capabilities applies drop, then add, to the default set. "ALL" in drop
// empties the set first, "ALL" in add fills it before drop is applied.
func capabilities(add, drop []string) ([]string, error) {
	add, err := capNames(add)
	if err != nil {
		return nil, err
	}
	if drop, err = capNames(drop); err != nil {
		return nil, err
	}
	set := map[string]bool{}
	switch {
	case slices.Contains(add, "ALL"):
		for _, c := range capability.Names {
			set[c] = true
		}
	case !slices.Contains(drop, "ALL"):
		for _, c := range defaultCapabilities {
			set[c] = true
		}
	}
	for _, c := range drop {
		delete(set, c)
	}
	for _, c := range add {
		set[c] = true
	}
	var out []string
	for _, c := range capability.Names {
		if set[c] {
			out = append(out, c)
		}
	}
	return out, nil
}

func capNames(in []string) ([]string, error) {
	var out []string
	for _, s := range in {
		c := strings.ToUpper(s)
		if c != "ALL" && !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if c != "ALL" && !slices.Contains(capability.Names[:], c) {
			return nil, fmt.Errorf("capability %q: unknown, see capabilities(7)", s)
		}
		out = append(out, c)
	}
	return out, nil
}

// capabilitySets spreads caps over the sets as docker does: root gets them
// effective at once; other users only through the bounding set, for the
// setuid programs they may run.
func capabilitySets(caps []string, u specs.User) *specs.LinuxCapabilities {
	c := &specs.LinuxCapabilities{Bounding: caps}
	if name, _, _ := strings.Cut(u.Username, ":"); u.UID == 0 && (name == "" || name == "root" || name == "0") {
		c.Effective, c.Permitted = caps, caps
	}
	return c
}
