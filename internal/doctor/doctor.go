package doctor

import (
	"runtime"
)

// Status is the result of a check.
type Status string

// Fail means that VMs cannot run; Warn that something works less well, or not
// for every use, such as containers.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"` // stable, for programs
	Status Status `json:"status"`
	Detail string `json:"detail"`        // what was found
	Why    string `json:"why"`           // what it is needed for
	Fix    string `json:"fix,omitempty"` // what to do, unless OK
}

// Options says where to look. The zero value is the running host.
type Options struct {
	Sys   string // in place of /, for tests: dev, proc and sys are looked up below it
	UID   int    // who would run hvctl
	Root  string // state directory
	Store string // image and kernel store
	// DefaultKernel describes the kernel VMs boot by default.
	DefaultKernel func() (string, error)
	// Helpers are the programs that belong to hvctl, by name, and why they
	// could not be found.
	Helpers map[string]error
}

// Run makes every check, in an order for people: what VMs need first.
func Run(o Options) []Check {
	if o.Sys == "" {
		o.Sys = "/"
	}
	checks := []func(Options) Check{
		kvmDevice, kvmMode, memory, defaultKernel, helpers, storeDir, rootDir,
		containers, tap, netAdmin, nfTables, vhostNet, vhostVsock, cgroups, hugePages, aptTools,
	}
	out := make([]Check, 0, len(checks))
	for _, c := range checks {
		out = append(out, c(o))
	}
	return out
}

// Usable tells whether VMs can run.
func Usable(checks []Check) bool {
	for _, c := range checks {
		if c.Status == Fail {
			return false
		}
	}
	return true
}

func good(c Check, detail string) Check { c.Status, c.Detail = OK, detail; return c }

func bad(c Check, s Status, detail, fix string) Check {
	c.Status, c.Detail, c.Fix = s, detail, fix
	return c
}

// supported is false on other processors than those the VMM is written for.
func supported() bool { return runtime.GOARCH == "amd64" }
