package container

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultDevices are in every container (config-linux.md, "Default Devices").
var defaultDevices = [...]plan.Device{
	{Path: "/dev/null", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 3},
	{Path: "/dev/zero", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 5},
	{Path: "/dev/full", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 7},
	{Path: "/dev/random", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 8},
	{Path: "/dev/urandom", Mode: unix.S_IFCHR | 0o666, Major: 1, Minor: 9},
	{Path: "/dev/tty", Mode: unix.S_IFCHR | 0o666, Major: 5, Minor: 0},
}

// buildPlan turns a validated configuration into a plan. What needs open
// descriptors is left to the caller.
func buildPlan(s *specs.Spec, rec *record) (*plan.Plan, error) {
	p := &plan.Plan{
		UserNS: rec.UserNS, Hostname: s.Hostname, Domainname: s.Domainname,
		Root: plan.Root{Path: rec.Rootfs, ReadOnly: s.Root.Readonly, Remain: namespaceOf(s, specs.MountNamespace) == nil},
	}
	if h := s.Hooks; h != nil {
		p.RuntimeHooks = len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0 //nolint:staticcheck // deprecated, and still to be run
	}
	ownDev := true
	for i := range s.Mounts {
		m, err := parseMount(&s.Mounts[i])
		if err != nil {
			return nil, err
		}
		if m.Dest == "/dev" && m.Kind == plan.Bind {
			ownDev = false // somebody else's /dev is left as it is
		}
		p.Mounts = append(p.Mounts, m.Mount)
	}
	p.DevDefaults = ownDev
	if err := devicePlans(p, s, ownDev); err != nil {
		return nil, err
	}
	if l := s.Linux; l != nil {
		p.Masked, p.ReadOnly = l.MaskedPaths, l.ReadonlyPaths
		if l.MountLabel != "" && hasSELinux() { // without it nothing has labels
			p.MountLabel = l.MountLabel
		}
		p.Root.Propagation, _ = propagation(l.RootfsPropagation) // validated
		if p.Root.Propagation&unix.MS_SHARED != 0 {
			var err error
			if p.Root.Mount, err = mountOf(rec.Rootfs); err != nil {
				return nil, err
			}
		}
		for _, k := range slices.Sorted(maps.Keys(l.Sysctl)) {
			p.Sysctl = append(p.Sysctl, plan.Pair{Key: sysctlPath(k), Value: l.Sysctl[k]})
		}
		p.TimeOffsets = timeOffsets(l.TimeOffsets)
	}
	if s.Process != nil {
		var err error
		if p.Process, err = processPlan(s.Process, s.Linux); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func devicePlans(p *plan.Plan, s *specs.Spec, ownDev bool) error {
	seen := map[string]bool{}
	if s.Linux != nil {
		for i := range s.Linux.Devices {
			d := &s.Linux.Devices[i]
			mode, err := deviceMode(d)
			if err != nil {
				return err
			}
			pd := plan.Device{Path: path.Clean(d.Path), Mode: mode, Major: uint32(d.Major), Minor: uint32(d.Minor)}
			if d.UID != nil {
				pd.UID = *d.UID
			}
			if d.GID != nil {
				pd.GID = *d.GID
			}
			seen[pd.Path] = true
			p.Devices = append(p.Devices, pd)
		}
	}
	if !ownDev {
		return nil
	}
	for _, d := range defaultDevices {
		if !seen[d.Path] {
			p.Devices = append(p.Devices, d)
		}
	}
	return nil
}

func timeOffsets(m map[string]specs.LinuxTimeOffset) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s %d %d\n", k, m[k].Secs, m[k].Nanosecs)
	}
	return b.String()
}

// processPlan turns a process into its plan.
func processPlan(pr *specs.Process, l *specs.Linux) (*plan.Process, error) {
	caps, err := capSets(pr.Capabilities)
	if err != nil {
		return nil, err
	}
	p := &plan.Process{
		Args: pr.Args, Env: pr.Env, Cwd: pr.Cwd, Terminal: pr.Terminal,
		UID: pr.User.UID, GID: pr.User.GID, Groups: pr.User.AdditionalGids, SetGroups: true,
		HasCaps: true, Caps: caps, NoNewPrivs: pr.NoNewPrivileges, AppArmor: pr.ApparmorProfile, SELinux: pr.SelinuxLabel,
	}
	if pr.User.Umask != nil {
		p.HasUmask, p.Umask = true, *pr.User.Umask
	}
	if pr.ConsoleSize != nil {
		p.Columns, p.Rows = uint32(pr.ConsoleSize.Width), uint32(pr.ConsoleSize.Height)
	}
	for _, r := range pr.Rlimits {
		p.Rlimits = append(p.Rlimits, plan.Rlimit{Name: r.Type, Resource: rlimitNumbers[r.Type], Soft: r.Soft, Hard: r.Hard})
	}
	if pr.Scheduler != nil {
		p.HasScheduler = true
		if p.Scheduler, err = schedulerPlan(pr.Scheduler); err != nil {
			return nil, err
		}
	}
	if pr.IOPriority != nil {
		p.HasIOPriority = true
		if p.IOPriority, err = ioPriorityPlan(pr.IOPriority); err != nil {
			return nil, err
		}
	}
	if pr.ExecCPUAffinity != nil {
		if p.Affinity, err = parseCPUs(pr.ExecCPUAffinity.Final); err != nil {
			return nil, err
		}
	}
	if l != nil && l.Personality != nil {
		p.HasPersonality = true
		if p.Personality, err = personalityPlan(l.Personality); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// cgroupMounts tells the plan's cgroup mounts what there is to show: the
// container's own part of each hierarchy.
func cgroupMounts(p *plan.Plan, g Cgroup) error {
	for i := range p.Mounts {
		m := &p.Mounts[i]
		if m.Kind != plan.Cgroup {
			continue
		}
		if g == nil {
			return fmt.Errorf("mount %s: %w", m.Dest, ErrNoCgroup)
		}
		paths := g.Paths()
		if v2, ok := paths[""]; ok && len(paths) == 1 {
			m.Cgroups = []plan.Pair{{Value: v2}}
			continue
		}
		for _, c := range slices.Sorted(maps.Keys(paths)) {
			name := strings.TrimPrefix(c, "name=")
			if c == "" {
				name = "unified"
			}
			m.Cgroups = append(m.Cgroups, plan.Pair{Key: name, Value: paths[c]})
		}
	}
	return nil
}

// setOOMScore is done from outside, where /proc is the host's.
func setOOMScore(pid int, pr *specs.Process) error {
	if pr == nil || pr.OOMScoreAdj == nil {
		return nil
	}
	err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), fmt.Append(nil, *pr.OOMScoreAdj), 0)
	if err != nil {
		return fmt.Errorf("process.oomScoreAdj %d: %w", *pr.OOMScoreAdj, err)
	}
	return nil
}
