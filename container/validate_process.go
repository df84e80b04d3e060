package container

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const noID = 1<<32 - 1 // (uid_t)-1 means "do not change" to the kernel

// ValidateProcess checks a process on its own, for exec. Errors wrap ErrConfig.
func ValidateProcess(p *specs.Process) error {
	c := new(checker)
	c.process("process", p)
	if len(c.errs) > 0 {
		return configError(c.errs)
	}
	return nil
}

func (c *checker) process(f string, p *specs.Process) {
	if len(p.Args) == 0 {
		c.add(f+".args", "is empty")
	} else if p.Args[0] == "" {
		c.add(f+".args[0]", "is empty")
	}
	for i, a := range p.Args {
		c.noNUL(fmt.Sprintf("%s.args[%d]", f, i), a)
	}
	for i, e := range p.Env {
		field := fmt.Sprintf("%s.env[%d]", f, i)
		c.noNUL(field, e)
		if strings.HasPrefix(e, "=") || e == "" {
			c.add(field, "%q has no name", e)
		}
	}
	c.abs(f+".cwd", p.Cwd)
	if strings.HasPrefix(p.Cwd, "/proc/self/fd") || strings.HasPrefix(p.Cwd, "/proc/thread-self/fd") {
		c.add(f+".cwd", "%q leads through an open descriptor", p.Cwd)
	}
	if p.User.UID == noID || p.User.GID == noID || slices.Contains(p.User.AdditionalGids, noID) {
		c.add(f+".user", "ID %d is not one", uint32(noID))
	}
	if p.User.Umask != nil && *p.User.Umask > 0o777 {
		c.add(f+".user.umask", "%#o is out of range", *p.User.Umask)
	}
	if p.ConsoleSize != nil && (p.ConsoleSize.Width > 1<<16-1 || p.ConsoleSize.Height > 1<<16-1) {
		c.add(f+".consoleSize", "is out of range")
	}
	if p.OOMScoreAdj != nil && (*p.OOMScoreAdj < -1000 || *p.OOMScoreAdj > 1000) {
		c.add(f+".oomScoreAdj", "%d is not between -1000 and 1000", *p.OOMScoreAdj)
	}
	c.capabilities(f+".capabilities", p.Capabilities)
	c.rlimits(f+".rlimits", p.Rlimits)
	if _, err := schedulerPlan(p.Scheduler); err != nil {
		c.add(f+".scheduler", "%v", err)
	}
	if _, err := ioPriorityPlan(p.IOPriority); err != nil {
		c.add(f+".ioPriority", "%v", err)
	}
	if p.ExecCPUAffinity != nil {
		if _, err := parseCPUs(p.ExecCPUAffinity.Initial); err != nil {
			c.add(f+".execCPUAffinity.initial", "%v", err)
		}
		if _, err := parseCPUs(p.ExecCPUAffinity.Final); err != nil {
			c.add(f+".execCPUAffinity.final", "%v", err)
		}
	}
	c.noNUL(f+".apparmorProfile", p.ApparmorProfile)
	if p.ApparmorProfile != "" && !hasAppArmor() {
		c.add(f+".apparmorProfile", "%q cannot be applied: AppArmor is not enabled on this host", p.ApparmorProfile)
	}
	c.noNUL(f+".selinuxLabel", p.SelinuxLabel)
	if p.SelinuxLabel != "" && !hasSELinux() {
		c.add(f+".selinuxLabel", "%q cannot be applied: SELinux is not enabled on this host", p.SelinuxLabel)
	}
}

func (c *checker) capabilities(f string, caps *specs.LinuxCapabilities) {
	if caps == nil {
		return
	}
	for _, set := range []struct {
		name string
		list []string
	}{
		{"bounding", caps.Bounding},
		{"effective", caps.Effective},
		{"permitted", caps.Permitted},
		{"inheritable", caps.Inheritable},
		{"ambient", caps.Ambient},
	} {
		if _, err := capMask(set.list); err != nil {
			c.add(f+"."+set.name, "%v", err)
		}
	}
	if len(c.errs) > 0 {
		return
	}
	s, _ := capSets(caps)
	if s.Effective&^s.Permitted != 0 {
		c.add(f+".effective", "has what is not permitted")
	}
}

func (c *checker) rlimits(f string, list []specs.POSIXRlimit) {
	seen := map[string]bool{}
	for i, r := range list {
		field := fmt.Sprintf("%s[%d]", f, i)
		if _, ok := rlimitNumbers[r.Type]; !ok {
			c.add(field+".type", "%q is unknown", r.Type)
		}
		if seen[r.Type] {
			c.add(field+".type", "%s appears twice", r.Type)
		}
		seen[r.Type] = true
		if r.Soft > r.Hard {
			c.add(field+".soft", "%d is above the hard limit %d", r.Soft, r.Hard)
		}
	}
}
