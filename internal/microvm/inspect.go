package microvm

import (
	"path/filepath"

	"github.com/hvctl/hvctl/internal/workload"
)

// Inspect tells what only a VM has: its devices' counters, its host resources
// and the timeline of its start. The keys are documented in docs/cli.md.
func (v *VM) Inspect() map[string]any {
	m := map[string]any{
		"vcpus":    vcpus(v.cfg.Res.CPUs),
		"kernel":   v.cfg.VM.KernelRef,
		"cmdline":  v.cfg.VM.Cmdline,
		"timeline": v.times.list(),
	}
	if n := maxVCPUs(v.cfg); n > vcpus(v.cfg.Res.CPUs) {
		m["maxVCPUs"] = n
	}
	g := v.live.Load()
	if g == nil {
		return m
	}
	m["vcpus"], _ = g.machine.CPUs()
	if v.cfg.VM.MaxMemoryBytes > 0 {
		now := g.machine.Memory()
		m["memory"] = map[string]uint64{"bytes": now.Now, "requestedBytes": now.Requested, "maxBytes": now.Most}
	}
	if v.net != nil {
		v.net.Describe(m)
	}
	if h := v.doubt.Load(); h != nil {
		m["migrationInDoubt"] = h.to
	}
	if c := v.confined.Load(); c != nil {
		m["confinement"] = c
	}
	if v.filling() {
		m["memoryFollows"] = true
	}
	m["counters"] = g.machine.Counters()
	return m
}

// NetworkStatus reports the guest's address and the ports published for it.
func (v *VM) NetworkStatus() (ip string, published []workload.Port) {
	if v.live.Load() == nil || v.net == nil {
		return "", nil
	}
	for _, p := range v.net.Ports {
		published = append(published, workload.Port(p))
	}
	if v.net.IP.IsValid() {
		ip = v.net.IP.Addr().String()
	}
	return ip, published
}

// root is the state root that the instance's directory lies in.
func (v *VM) root() string { return filepath.Dir(v.dir) }
