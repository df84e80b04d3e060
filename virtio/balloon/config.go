package balloon

import (
	"encoding/binary"

	"github.com/hvctl/hvctl/internal/state"
)

// struct virtio_balloon_config (§5.5.4).
const (
	cfgTarget = 0  // num_pages
	cfgActual = 4  // actual, the driver's
	cfgPoison = 12 // poison_val, the driver's; free_page_hint_cmd_id before it stays 0, which is "stop"
	configLen = 16
)

// ReadConfig fills p with the bytes at off.
func (d *Device) ReadConfig(p []byte, off uint32) {
	c := d.config()
	copy(p, c[off:])
}

func (d *Device) config() (c [configLen]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	binary.LittleEndian.PutUint32(c[cfgTarget:], d.target)
	binary.LittleEndian.PutUint32(c[cfgActual:], d.actual)
	binary.LittleEndian.PutUint32(c[cfgPoison:], d.poison)
	return c
}

// WriteConfig takes the driver's fields.
func (d *Device) WriteConfig(p []byte, off uint32) {
	c := d.config()
	copy(c[off:], p)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.actual = binary.LittleEndian.Uint32(c[cfgActual:])
	d.poison = binary.LittleEndian.Uint32(c[cfgPoison:])
	d.metrics.Actual.Store(uint64(d.actual) << pageShift)
}

// stateV1 is the device's state; any values are as good as any driver's.
type stateV1 struct {
	Target uint32 `json:"target_pages"`
	Actual uint32 `json:"actual_pages"`
	Poison uint32 `json:"poison"`
}

// StateVersion returns 1.
func (d *Device) StateVersion() uint32 { return 1 }

// SaveState returns the state.
func (d *Device) SaveState() (any, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return stateV1{d.target, d.actual, d.poison}, nil
}

// LoadState takes it back.
func (d *Device) LoadState(dec state.Decoder) error {
	var s stateV1
	if err := dec.Into(&s); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.target, d.actual, d.poison = s.Target, s.Actual, s.Poison
	d.metrics.Target.Store(uint64(s.Target) << pageShift)
	d.metrics.Actual.Store(uint64(s.Actual) << pageShift)
	return nil
}
