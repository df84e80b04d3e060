package initrd

import "errors"

// ErrModule is wrapped when a module's file cannot be used: unreadable, packed
// in an unknown way, not an x86-64 kernel object, or too large.
var ErrModule = errors.New("kernel module not usable")

// ErrOptions is wrapped when Options are contradictory or incomplete.
var ErrOptions = errors.New("initramfs options invalid")
