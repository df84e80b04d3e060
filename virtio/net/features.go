package net

import "github.com/hvctl/hvctl/virtio"

// Feature bits (§5.1.3).
const (
	featCSUM          virtio.Features = 1 << 0
	featGuestCSUM     virtio.Features = 1 << 1
	featCtrlOffloads  virtio.Features = 1 << 2
	featMTU           virtio.Features = 1 << 3
	featMAC           virtio.Features = 1 << 5
	featGuestTSO4     virtio.Features = 1 << 7
	featGuestTSO6     virtio.Features = 1 << 8
	featGuestECN      virtio.Features = 1 << 9
	featGuestUFO      virtio.Features = 1 << 10
	featHostTSO4      virtio.Features = 1 << 11
	featHostTSO6      virtio.Features = 1 << 12
	featHostECN       virtio.Features = 1 << 13
	featHostUFO       virtio.Features = 1 << 14
	featMrgRxbuf      virtio.Features = 1 << 15
	featStatus        virtio.Features = 1 << 16
	featCtrlVQ        virtio.Features = 1 << 17
	featCtrlRX        virtio.Features = 1 << 18
	featCtrlRXExtra   virtio.Features = 1 << 20
	featGuestAnnounce virtio.Features = 1 << 21
	featMQ            virtio.Features = 1 << 22
	featCtrlMAC       virtio.Features = 1 << 23
	featGuestUSO4     virtio.Features = 1 << 54
	featGuestUSO6     virtio.Features = 1 << 55
	featHostUSO       virtio.Features = 1 << 56
	featSpeedDuplex   virtio.Features = 1 << 63
)

// always is what the device does whatever the backend can.
const always = featMrgRxbuf | featStatus | featCtrlVQ | featCtrlRX | featCtrlRXExtra |
	featGuestAnnounce | featCtrlMAC | featSpeedDuplex

// needs lists which features depend on which (§5.1.3.1): of each row, one of
// the bits in any has to be there.
var needs = []struct{ bit, any virtio.Features }{
	{featGuestTSO4, featGuestCSUM},
	{featGuestTSO6, featGuestCSUM},
	{featGuestECN, featGuestTSO4 | featGuestTSO6},
	{featGuestUFO, featGuestCSUM},
	{featGuestUSO4, featGuestCSUM},
	{featGuestUSO6, featGuestCSUM},
	{featHostTSO4, featCSUM},
	{featHostTSO6, featCSUM},
	{featHostECN, featHostTSO4 | featHostTSO6},
	{featHostUFO, featCSUM},
	{featHostUSO, featCSUM},
	{featCtrlRX, featCtrlVQ},
	{featCtrlRXExtra, featCtrlVQ},
	{featGuestAnnounce, featCtrlVQ},
	{featMQ, featCtrlVQ},
	{featCtrlMAC, featCtrlVQ},
}

// CheckFeatures refuses sets in which something lacks what it depends on. A
// driver that leaves out CTRL_VQ but takes CTRL_GUEST_OFFLOADS can do no harm.
func (d *Device) CheckFeatures(f virtio.Features) error {
	for _, n := range needs {
		if f&n.bit != 0 && f&n.any == 0 {
			return virtio.GuestErrorf("feature %#x without any of %#x", uint64(n.bit), uint64(n.any))
		}
	}
	return nil
}

// guestOffloads pairs what the driver takes with what the backend then may
// send; the bits of CTRL_GUEST_OFFLOADS_SET (§5.1.6.5.6) are the same.
var guestOffloads = []struct {
	bit virtio.Features
	off Offload
}{
	{featGuestCSUM, OffloadCSUM},
	{featGuestTSO4, OffloadTSO4},
	{featGuestTSO6, OffloadTSO6},
	{featGuestECN, OffloadECN},
	{featGuestUFO, OffloadUFO},
	{featGuestUSO4, OffloadUSO4},
	{featGuestUSO6, OffloadUSO6},
}

// offloads returns what the backend may do for a driver that takes f.
func offloads(f virtio.Features) (o Offload) {
	for _, g := range guestOffloads {
		if f&g.bit != 0 {
			o |= g.off
		}
	}
	return o
}

// offered turns what the backend can do into features. Whatever it can leave
// to the driver it also takes from the driver.
func offered(o Offload) (f virtio.Features) {
	for _, g := range guestOffloads {
		if o&g.off != 0 {
			f |= g.bit
		}
	}
	for _, h := range []struct {
		off Offload
		bit virtio.Features
	}{
		{OffloadCSUM, featCSUM | featCtrlOffloads},
		{OffloadTSO4, featHostTSO4},
		{OffloadTSO6, featHostTSO6},
		{OffloadECN, featHostECN},
		{OffloadUFO, featHostUFO},
		{OffloadUSO4 | OffloadUSO6, featHostUSO},
	} {
		if o&h.off == h.off {
			f |= h.bit
		}
	}
	return f
}

// segmented are the offloads with which frames exceed the MTU.
const segmented = OffloadTSO4 | OffloadTSO6 | OffloadUFO | OffloadUSO4 | OffloadUSO6
