package legacy

// I/O ports through which a kernel resets the machine.
const (
	I8042     = 0x60 // keyboard controller: data at +0, status and command at +4
	I8042Size = 5
	CF9       = 0xcf9 // reset control register of the PC chipset

	i8042Command   = 4
	i8042PulseCPU  = 0xfe // pulse output line 0, the CPU's reset
	cf9SystemReset = 1 << 2
)

// Keyboard is the keyboard controller as far as a reset goes: no keyboard is
// attached, its status register reads zero (nothing to read, ready for a
// command), and command 0xfe asks for a reset.
type Keyboard struct{ Reset func() }

// ReadAt implements bus.Handler.
func (k Keyboard) ReadAt(_ uint64, p []byte) { clear(p) }

// WriteAt implements bus.Handler.
func (k Keyboard) WriteAt(off uint64, p []byte) {
	if off == i8042Command && p[0] == i8042PulseCPU {
		k.Reset()
	}
}

// ResetControl is port 0xcf9, a byte wide.
type ResetControl struct{ Reset func() }

// ReadAt implements bus.Handler.
func (c ResetControl) ReadAt(_ uint64, p []byte) { clear(p) }

// WriteAt implements bus.Handler.
func (c ResetControl) WriteAt(_ uint64, p []byte) {
	if p[0]&cf9SystemReset != 0 {
		c.Reset()
	}
}
