package pci

import (
	"encoding/binary"
	"fmt"

	pcibus "github.com/hvctl/hvctl/internal/pci"
	"github.com/hvctl/hvctl/virtio"
)

const capVendor = 0x09

// Types of virtio structures (§4.1.4).
const (
	cfgCommon = 1
	cfgNotify = 2
	cfgISR    = 3
	cfgDevice = 4
	cfgAccess = 5
)

// addCaps declares where each structure is (§4.1.4).
func (t *Transport) addCaps(info virtio.Info) error {
	if t.core.NumQueues() > maxQueues || info.ConfigLen > lenDevice {
		return fmt.Errorf("%w: virtio device %d has %d queues and %d bytes of configuration",
			pcibus.ErrDesign, info.ID, t.core.NumQueues(), info.ConfigLen)
	}
	notify := make([]byte, 4)
	binary.LittleEndian.PutUint32(notify, multiplier)
	for _, c := range []struct {
		kind    byte
		off, n  uint32
		trailer []byte
	}{
		{cfgCommon, offCommon, lenCommon, nil},
		{cfgISR, offISR, lenISR, nil},
		{cfgDevice, offDevice, info.ConfigLen, nil},
		{cfgNotify, offNotify, uint32(multiplier * max(1, t.core.NumQueues())), notify},
	} {
		if c.n == 0 {
			continue // §4.1.4.6: only for a device that has configuration
		}
		if _, err := t.fn.AddCapability(capVendor, capBody(c.kind, c.off, c.n, c.trailer), nil, nil); err != nil {
			return err
		}
	}
	t.access.t = t
	at, err := t.fn.AddCapability(capVendor, capBody(cfgAccess, 0, 0, make([]byte, 4)), accessMask(), &t.access)
	t.access.at = at
	return err
}

// capBody is struct virtio_pci_cap from cap_len on.
func capBody(kind byte, off, n uint32, trailer []byte) []byte {
	b := []byte{byte(16 + len(trailer)), kind, barIndex, 0, 0, 0}
	b = binary.LittleEndian.AppendUint32(b, off)
	b = binary.LittleEndian.AppendUint32(b, n)
	return append(b, trailer...)
}

// Offsets in the access capability (§4.1.4.9).
const (
	accessBAR  = 4
	accessOff  = 8
	accessLen  = 12
	accessData = 16
)

// accessMask lets the driver write bar, offset, length and data.
func accessMask() []byte {
	m := make([]byte, 18)
	for i := range m {
		if at := i + 2; at == accessBAR || at >= accessOff {
			m[i] = 0xff
		}
	}
	return m
}

// accessCap is VIRTIO_PCI_CAP_PCI_CFG: a window on the BAR for those who cannot
// map it. No lock is held during the access itself, which may be a reset.
type accessCap struct {
	t  *Transport
	at int
}

// window returns the access that the driver has set up.
func (a *accessCap) window() (off uint64, n int, ok bool) {
	var b [16]byte
	a.t.fn.Config(a.at, b[:])
	off = uint64(binary.LittleEndian.Uint32(b[accessOff:]))
	l := binary.LittleEndian.Uint32(b[accessLen:])
	ok = b[accessBAR] == barIndex && (l == 1 || l == 2 || l == 4) && off%uint64(l) == 0 && off < barSize
	return off, int(l), ok
}

// touchesData reports whether an access to the capability includes its data.
func touchesData(off, n int) bool { return off+n > accessData && off < accessData+4 }

// BeforeRead does the read that the driver is about to fetch.
func (a *accessCap) BeforeRead(off, n int) {
	if !touchesData(off, n) {
		return
	}
	if at, l, ok := a.window(); ok {
		data := [4]byte{0xff, 0xff, 0xff, 0xff}
		a.t.ReadAt(at, data[:l])
		a.t.fn.SetConfig(a.at+accessData, data[:l])
	}
}

// AfterWrite does the write that the driver asked for.
func (a *accessCap) AfterWrite(off, n int) {
	if !touchesData(off, n) {
		return
	}
	if at, l, ok := a.window(); ok {
		var data [4]byte
		a.t.fn.Config(a.at+accessData, data[:])
		a.t.WriteAt(at, data[:l])
	}
}
