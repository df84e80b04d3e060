package restart

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/plan"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// diskVolume is what the offer calls a VM's i-th disk.
func diskVolume(i int) string { return fmt.Sprintf("disk%d", i) }

// carried tells whether a VM's disk can go along: a raw one that the guest writes.
func carried(d workload.Disk) bool {
	return !d.ReadOnly && d.Overlay == "" && (d.Format == "" || d.Format == "raw")
}

// machineResources are those that only a VM has.
func (m *Move) machineResources(ctx context.Context) (all []plan.Resource, err error) {
	for i, d := range m.H.Config().VM.Disks {
		kind, name := plan.RootDisk, d.Serial
		if name == "" {
			name = diskVolume(i)
		}
		if !carried(d) {
			kind = plan.RawDisk
		}
		all = append(all, plan.Resource{Kind: kind, Name: name, Detail: d.Path})
	}
	devices, err := m.H.Client.Devices(ctx)
	for _, d := range devices {
		if d.Plugged {
			all = append(all, plan.Resource{Kind: plan.Device, Name: d.ID, Detail: d.Kind})
		}
	}
	return all, err
}

// machine is what the source says of a VM: nothing that only its host has. A container
// has nothing.
func machine(c *workload.Config) workload.VM {
	if c.Backend != "vm" {
		return workload.VM{}
	}
	v := c.VM
	n := workload.VM{
		KernelRef: v.KernelRef, Cmdline: v.Cmdline, Transport: v.Transport, HugePages: v.HugePages, OnPanic: v.OnPanic, Watchdog: v.Watchdog,
		MaxCPUs: v.MaxCPUs, MaxMemoryBytes: v.MaxMemoryBytes, Rootfs: v.Rootfs, Balloon: v.Balloon, CPU: v.CPU, Disks: slices.Clone(v.Disks),
	}
	for i := range n.Disks {
		n.Disks[i].Path = ""
	}
	return n
}

// guest judges what a source says of a VM, and returns what of it counts here.
func guest(v workload.VM) (workload.VM, error) {
	for _, s := range []string{v.OnPanic, v.Watchdog} {
		if !slices.Contains([]string{"", workload.AtEndExit, workload.AtEndDump, workload.AtEndPause}, s) {
			return v, fmt.Errorf("%q says nothing about a guest that has crashed", s)
		}
	}
	n := machine(&workload.Config{Backend: "vm", VM: v})
	n.Cmdline = ""
	n.KernelRef, _, _ = strings.Cut(v.KernelRef, " ") // a name, then its version
	if strings.Trim(n.KernelRef, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
		n.KernelRef = "" // no path of ours
	}
	for i, d := range n.Disks {
		if !carried(d) {
			return v, fmt.Errorf("%w: disk %d is a file of the source's host", workload.ErrUnsupported, i)
		}
	}
	return n, nil
}

// added is what a user had appended to a kernel command line, of which base is the rest:
// the guest's own affair. A source of another build has another rest, and adds nothing.
func added(cmdline, base string) string {
	if more, ok := strings.CutPrefix(cmdline, base+" "); ok {
		return " " + more
	}
	return ""
}

// guestsAffair is s without what a VM does inside, where it is nobody else's.
func guestsAffair(s *specs.Spec) *specs.Spec {
	n, p := *s, *s.Process
	usual, err := workload.NewProcess(workload.SpecOptions{Args: []string{"/"}})
	if err == nil { // always
		p.Capabilities = usual.Capabilities
	}
	n.Process = &p
	if s.Linux != nil {
		l := *s.Linux
		l.Sysctl, l.Seccomp = nil, nil
		n.Linux = &l
	}
	return &n
}
