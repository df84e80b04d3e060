package workload

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// throttled is b with the bounds of more, which replace those of the same kind
// and device. Neither is changed. A rate of 0 stays in it: it has to be written
// where there was another.
func throttled(b, more *specs.LinuxBlockIO) *specs.LinuxBlockIO {
	if b == nil {
		b = &specs.LinuxBlockIO{}
	}
	join := func(have, more []specs.LinuxThrottleDevice) []specs.LinuxThrottleDevice {
		have = slices.DeleteFunc(slices.Clone(have), func(d specs.LinuxThrottleDevice) bool {
			return slices.ContainsFunc(more, func(m specs.LinuxThrottleDevice) bool { return m.Major == d.Major && m.Minor == d.Minor })
		})
		return append(have, more...)
	}
	return &specs.LinuxBlockIO{
		ThrottleReadBpsDevice:   join(b.ThrottleReadBpsDevice, more.ThrottleReadBpsDevice),
		ThrottleWriteBpsDevice:  join(b.ThrottleWriteBpsDevice, more.ThrottleWriteBpsDevice),
		ThrottleReadIOPSDevice:  join(b.ThrottleReadIOPSDevice, more.ThrottleReadIOPSDevice),
		ThrottleWriteIOPSDevice: join(b.ThrottleWriteIOPSDevice, more.ThrottleWriteIOPSDevice),
	}
}
