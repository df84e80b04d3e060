package virtio

import "slices"

// Status is the device status field (§2.1).
type Status uint8

// Status bits. They are added in this order, one step at a time; writing 0
// resets the device.
const (
	StatusAcknowledge Status = 1 << 0
	StatusDriver      Status = 1 << 1
	StatusDriverOK    Status = 1 << 2
	StatusFeaturesOK  Status = 1 << 3
	StatusNeedsReset  Status = 1 << 6
	StatusFailed      Status = 1 << 7
)

const (
	statusAck      = StatusAcknowledge
	statusDriver   = statusAck | StatusDriver
	statusFeatures = statusDriver | StatusFeaturesOK
	statusOK       = statusFeatures | StatusDriverOK
)

// steps are the legal status writes besides reset, rewriting the same value
// and giving up (adding StatusFailed, legal at any time).
var steps = map[Status][]Status{
	0:              {statusAck, statusDriver}, // some firmware sets both bits at once
	statusAck:      {statusDriver},
	statusDriver:   {statusFeatures},
	statusFeatures: {statusOK},
	statusOK:       {},
}

// To returns the status after the driver wrote v, not 0, in status s. The bit
// DEVICE_NEEDS_RESET is the device's: it stays and what the driver writes there
// is ignored. An illegal step is an error wrapping ErrGuest.
func (s Status) To(v Status) (Status, error) {
	needs := s & StatusNeedsReset
	cur, next := s&^StatusNeedsReset, v&^StatusNeedsReset
	if next == cur || next == cur|StatusFailed {
		return next | needs, nil
	}
	if needs == 0 && slices.Contains(steps[cur], next) {
		return next, nil
	}
	return s, GuestErrorf("status write %#02x in status %#02x is no legal step", uint8(v), uint8(s))
}

// legal reports whether a device can be in status s, for saved state.
func (s Status) legal() bool {
	_, ok := steps[s&^(StatusNeedsReset|StatusFailed)]
	return ok
}

// running reports whether queues may be served: DRIVER_OK and no trouble.
func (s Status) running() bool { return s == statusOK }
