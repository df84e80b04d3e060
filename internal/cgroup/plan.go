package cgroup

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// setting is one value for one control file.
type setting struct {
	field       string // of config.json, for errors
	controller  string
	file, value string

	// alt is tried first and is used where its file exists.
	altFile, altValue string
	// pair says that the kernel checks this file against the next setting's:
	// when it refuses, the next one is written first.
	pair bool
	// optional settings do nothing where the file does not exist.
	optional bool
}

// plan is what resources mean for one kind of hierarchy.
type plan struct {
	settings []setting
	notes    []string // what the specification lets us ignore, and we do
}

func (p *plan) add(s setting) { p.settings = append(p.settings, s) }

func (p *plan) note(format string, a ...any) { p.notes = append(p.notes, fmt.Sprintf(format, a...)) }

// controllers are those that the settings need, sorted.
func (p *plan) controllers() []string {
	set := map[string]bool{}
	for _, s := range p.settings {
		if s.controller != "cgroup" {
			set[s.controller] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// checkResources refuses what is wrong on every kind of hierarchy.
func checkResources(r *specs.LinuxResources) error {
	if c := r.CPU; c != nil {
		if c.Shares != nil && *c.Shares > 262144 {
			return valueError("linux.resources.cpu.shares", "%d is above 262144", *c.Shares)
		}
		if c.Quota != nil && *c.Quota > 0 && *c.Quota < 1000 {
			return valueError("linux.resources.cpu.quota", "%d µs is below the kernel's least, 1000", *c.Quota)
		}
		if c.Period != nil && *c.Period != 0 && (*c.Period < 1000 || *c.Period > 1000000) {
			return valueError("linux.resources.cpu.period", "%d µs is not within the kernel's 1000 to 1000000", *c.Period)
		}
		if c.Idle != nil && *c.Idle != 0 && *c.Idle != 1 {
			return valueError("linux.resources.cpu.idle", "%d is neither 0 nor 1", *c.Idle)
		}
		for _, l := range []struct{ field, text string }{{"cpus", c.Cpus}, {"mems", c.Mems}} {
			if strings.Trim(l.text, "0123456789,-") != "" {
				return valueError("linux.resources.cpu."+l.field, "%q is no list such as 0-3,8", l.text)
			}
		}
	}
	if m := r.Memory; m != nil {
		for _, l := range []struct {
			field string
			n     *int64
		}{{"limit", m.Limit}, {"reservation", m.Reservation}, {"swap", m.Swap}} {
			if l.n != nil && *l.n < -1 {
				return valueError("linux.resources.memory."+l.field, "%d is negative; -1 means no limit", *l.n)
			}
		}
		if m.Swappiness != nil && *m.Swappiness > 100 {
			return valueError("linux.resources.memory.swappiness", "%d is above 100", *m.Swappiness)
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil && *p.Limit < -1 {
		return valueError("linux.resources.pids.limit", "%d is negative; -1 means no limit", *p.Limit)
	}
	if err := checkBlockIO(r.BlockIO); err != nil {
		return err
	}
	for _, h := range r.HugepageLimits {
		if !pageSize(h.Pagesize) {
			return valueError("linux.resources.hugepageLimits.pageSize", "%q is no size such as 2MB", h.Pagesize)
		}
	}
	for dev := range r.Rdma {
		if dev == "" || strings.ContainsAny(dev, " \n\x00") {
			return valueError("linux.resources.rdma", "%q is no device's name", dev)
		}
	}
	return nil
}

func checkBlockIO(b *specs.LinuxBlockIO) error {
	if b == nil {
		return nil
	}
	check := func(field string, w *uint16) error {
		if w != nil && *w != 0 && (*w < 10 || *w > 1000) {
			return valueError("linux.resources.blockIO."+field, "%d is not within 10 to 1000", *w)
		}
		return nil
	}
	if err := check("weight", b.Weight); err != nil {
		return err
	}
	if err := check("leafWeight", b.LeafWeight); err != nil {
		return err
	}
	for _, d := range b.WeightDevice {
		if err := check("weightDevice.weight", d.Weight); err != nil {
			return err
		}
		if err := check("weightDevice.leafWeight", d.LeafWeight); err != nil {
			return err
		}
	}
	return nil
}

// pageSize tells whether s is how hugetlb files call a size: 64KB, 2MB, 1GB.
func pageSize(s string) bool {
	for _, unit := range []string{"KB", "MB", "GB"} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			_, err := strconv.ParseUint(n, 10, 32)
			return err == nil && n[0] != '0'
		}
	}
	return false
}

// throttles are the four device limits with their v1 file and v2 key.
func throttles(b *specs.LinuxBlockIO) []struct {
	field, v1, v2 string
	devices       []specs.LinuxThrottleDevice
} {
	return []struct {
		field, v1, v2 string
		devices       []specs.LinuxThrottleDevice
	}{
		{"throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

func device(d specs.LinuxBlockIODevice) string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// rdma adds the same lines on v1 and v2.
func (p *plan) rdma(limits map[string]specs.LinuxRdma) {
	for _, dev := range slices.Sorted(maps.Keys(limits)) {
		l, v := limits[dev], dev
		if l.HcaHandles != nil {
			v += fmt.Sprintf(" hca_handle=%d", *l.HcaHandles)
		}
		if l.HcaObjects != nil {
			v += fmt.Sprintf(" hca_object=%d", *l.HcaObjects)
		}
		if v != dev {
			p.add(setting{field: "linux.resources.rdma", controller: "rdma", file: "rdma.max", value: v})
		}
	}
}

// kernelMemory notes what no kernel has any more and OCI lets us ignore.
func (p *plan) kernelMemory(m *specs.LinuxMemory) {
	if m.Kernel != nil && *m.Kernel != 0 { //nolint:staticcheck // deprecated: that is what the note says
		p.note("linux.resources.memory.kernel is ignored: kernel memory has no limit of its own since Linux 5.4")
	}
}
