package machine

// Bits of the panic device's register (Linux
// include/uapi/misc/pvpanic.h).
const (
	panicked   = 1 << 0 // the guest's kernel has panicked
	crashSaved = 1 << 1 // it has, and a crash kernel takes over: not the end
)

// panicPort is the paravirtual panic device: a read tells which events it
// knows, a write reports some. The driver reports a panic before the kernel
// reboots for it, so the two can be told apart. It is a bus.Handler.
type panicPort struct{ crash func() }

// ReadAt implements bus.Handler.
func (panicPort) ReadAt(_ uint64, b []byte) {
	clear(b)
	b[0] = panicked | crashSaved
}

// WriteAt implements bus.Handler.
func (p panicPort) WriteAt(_ uint64, b []byte) {
	if b[0]&panicked != 0 {
		p.crash()
	}
}
