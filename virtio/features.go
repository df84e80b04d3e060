package virtio

import "strconv"

// Features is a set of feature bits (§2.2): bits 0 to 23 and 50 to 127 are the
// device type's own, of which we use those below 64.
type Features uint64

// Feature bits that do not depend on the device type (§6).
const (
	FeatureIndirectDesc   Features = 1 << 28
	FeatureEventIdx       Features = 1 << 29
	FeatureVersion1       Features = 1 << 32
	FeatureAccessPlatform Features = 1 << 33
)

// coreFeatures are offered for every device: the core does the work.
const coreFeatures = FeatureIndirectDesc | FeatureEventIdx | FeatureVersion1

// Has reports whether every bit of g is in f.
func (f Features) Has(g Features) bool { return f&g == g }

// DeviceID is the device type (§5).
type DeviceID uint16

// Device types that hvctl knows.
const (
	IDNet     DeviceID = 1
	IDBlock   DeviceID = 2
	IDConsole DeviceID = 3
	IDRNG     DeviceID = 4
	IDBalloon DeviceID = 5
	IDVsock   DeviceID = 19
	IDMem     DeviceID = 24
	IDFS      DeviceID = 26
	IDPmem    DeviceID = 27
)

// Kind is the name of the device type's Kind; its number for one we do not know.
func (d DeviceID) Kind() string {
	switch d {
	case IDNet:
		return "net"
	case IDBlock:
		return "blk"
	case IDConsole:
		return "console"
	case IDRNG:
		return "rng"
	case IDBalloon:
		return "balloon"
	case IDVsock:
		return "vsock"
	case IDMem:
		return "mem"
	case IDFS:
		return "fs"
	case IDPmem:
		return "pmem"
	}
	return strconv.Itoa(int(d))
}
