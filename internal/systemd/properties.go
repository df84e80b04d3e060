package systemd

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/internal/cgroup"
)

// Property is one of a unit's (org.freedesktop.systemd1(5)). The value is a
// bool, string, uint64, []uint32, []byte or []DeviceLimit.
type Property struct {
	Name  string
	Value any
	// Since is the systemd that knows it, or this value of it; an older one is
	// not told. 0: every one that knows cgroup v2.
	Since int
}

// DeviceLimit is a weight or rate for a device.
type DeviceLimit struct {
	Path  string
	Limit uint64
}

// Infinity is "no limit" for systemd.
const Infinity = math.MaxUint64

// Description tells people, and us, whose a scope is.
func Description(id string) string { return "container " + id + " of hvctl-oci" }

// New are the properties of the scope of the container id, which begins with the
// process.
func New(s Scope, id string, pid int) []Property {
	return []Property{
		{Name: "Description", Value: Description(id)},
		{Name: "Slice", Value: s.Slice},
		{Name: "PIDs", Value: []uint32{uint32(pid)}},
		{Name: "Delegate", Value: true},
		{Name: "DefaultDependencies", Value: false},
		{Name: "CollectMode", Value: "inactive-or-failed"}, // it leaves no failed unit
		{Name: "CPUAccounting", Value: true},
		{Name: "IOAccounting", Value: true},
		{Name: "MemoryAccounting", Value: true},
		{Name: "TasksAccounting", Value: true},
	}
}

// plainLimits are files whose number is the property's.
var plainLimits = map[string]string{
	"memory.max": "MemoryMax", "memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin",
	"memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax", "cpu.weight": "CPUWeight",
}

// deviceLimits are the parts of io.max.
var deviceLimits = map[string]string{
	"rbps": "IOReadBandwidthMax", "wbps": "IOWriteBandwidthMax", "riops": "IOReadIOPSMax", "wiops": "IOWriteIOPSMax",
}

// Limits are the properties that stand for control files: those that systemd
// would else write its own values to. Files that it knows nothing of, and so
// leaves alone, have none. Of several values for a file the last one counts, as
// it does when they are written.
func Limits(files []cgroup.File) []Property {
	var l limits
	for _, f := range files {
		l.file(f)
	}
	return l
}

type limits []Property

func (l *limits) set(name string, value any) { l.add(Property{Name: name, Value: value}) }

// add replaces what the property was before.
func (l *limits) add(p Property) {
	if i := slices.IndexFunc(*l, func(q Property) bool { return q.Name == p.Name }); i >= 0 {
		*l = slices.Delete(*l, i, i+1)
	}
	*l = append(*l, p)
}

func (l *limits) file(f cgroup.File) {
	if name := plainLimits[f.Name]; name != "" {
		if n, ok := number(f.Value); ok {
			l.set(name, n)
		}
		return
	}
	switch f.Name {
	case "cpu.max":
		l.quota(f.Value)
	case "cpu.idle":
		if f.Value == "1" {
			l.add(Property{Name: "CPUWeight", Value: uint64(0), Since: 252})
		}
	case "cpuset.cpus":
		l.mask("AllowedCPUs", f.Value)
	case "cpuset.mems":
		l.mask("AllowedMemoryNodes", f.Value)
	case "io.weight":
		l.ioWeight(f.Value)
	case "io.max":
		dev, rest, _ := strings.Cut(f.Value, " ")
		for part := range strings.FieldsSeq(rest) {
			key, value, _ := strings.Cut(part, "=")
			if n, ok := number(value); ok && deviceLimits[key] != "" {
				l.device(deviceLimits[key], dev, n)
			}
		}
	}
}

// number reads a control file's, where "max" is no limit.
func number(s string) (uint64, bool) {
	if s == "max" {
		return Infinity, true
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// quota is cpu.max, "QUOTA PERIOD" in µs. systemd counts in whole percents of a
// processor; more is better than less.
func (l *limits) quota(v string) {
	q, p, ok := strings.Cut(v, " ")
	period := uint64(100000)
	if ok {
		var err error
		if period, err = strconv.ParseUint(p, 10, 64); err != nil || period == 0 {
			return
		}
	}
	n, ok := number(q)
	if !ok {
		return
	}
	perSecond := uint64(Infinity)
	if n != Infinity {
		const percent = 10000
		hi, lo := bits.Mul64(n, 1000000)
		if hi >= period {
			return // nobody has that many processors
		}
		perSecond, _ = bits.Div64(hi, lo, period)
		if rest := perSecond % percent; rest != 0 && perSecond < Infinity-percent {
			perSecond += percent - rest
		}
	}
	l.set("CPUQuotaPerSecUSec", perSecond)
	l.set("CPUQuotaPeriodUSec", period)
}

// mask is a list such as 0-3,8 as a bit mask, the lowest byte first.
func (l *limits) mask(name, list string) {
	const most = 1 << 13 // CONFIG_NR_CPUS
	var mask []byte
	for part := range strings.SplitSeq(list, ",") {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || from > to || to >= most {
			return // the kernel refuses it
		}
		if n := int(to/8) + 1; n > len(mask) {
			mask = append(mask, make([]byte, n-len(mask))...)
		}
		for i := from; i <= to; i++ {
			mask[i/8] |= 1 << (i % 8)
		}
	}
	l.set(name, mask)
}

// ioWeight is io.weight: "default N", "N" or "MAJOR:MINOR N".
func (l *limits) ioWeight(v string) {
	first, second, ok := strings.Cut(v, " ")
	if !ok {
		first, second = "default", first
	}
	n, ok := number(second)
	switch {
	case !ok:
	case first == "default":
		l.set("IOWeight", n)
	default:
		l.device("IODeviceWeight", first, n)
	}
}

// device adds a device to a property that lists them.
func (l *limits) device(name, number string, limit uint64) {
	d := DeviceLimit{Path: fmt.Sprintf("/dev/block/%s", number), Limit: limit}
	for i := range *l {
		if p := &(*l)[i]; p.Name == name {
			list := slices.DeleteFunc(p.Value.([]DeviceLimit), func(o DeviceLimit) bool { return o.Path == d.Path })
			p.Value = append(list, d)
			return
		}
	}
	l.set(name, []DeviceLimit{d})
}
