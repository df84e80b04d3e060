package workload

import (
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// An update replaces the bounds of a kind and device, and leaves the others; who
// held the old limits still has them.
func TestUpdateOfDeviceBoundsKeepsTheOthers(t *testing.T) {
	rate := func(minor int64, rate uint64) specs.LinuxThrottleDevice {
		d := specs.LinuxThrottleDevice{Rate: rate}
		d.Major, d.Minor = 8, minor
		return d
	}
	list := func(d ...specs.LinuxThrottleDevice) []specs.LinuxThrottleDevice { return d }
	old := Resources{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: list(rate(0, 10), rate(16, 20)), ThrottleWriteIOPSDevice: list(rate(0, 5))}}
	u := Update{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: list(rate(0, 0)), ThrottleWriteBpsDevice: list(rate(0, 7))}}
	if err := u.Check(); err != nil {
		t.Error(err)
	}
	want := &specs.LinuxBlockIO{ThrottleReadBpsDevice: list(rate(16, 20), rate(0, 0)), ThrottleWriteBpsDevice: list(rate(0, 7)), ThrottleWriteIOPSDevice: list(rate(0, 5))}
	if got := u.Apply(old).BlockIO; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := u.Apply(Resources{}).BlockIO; !reflect.DeepEqual(got, u.BlockIO) {
		t.Errorf("of nothing: %+v", got)
	}
	if r := old.BlockIO.ThrottleReadBpsDevice; len(r) != 2 || r[0].Rate != 10 {
		t.Errorf("the old limits are now %+v", r)
	}
}
