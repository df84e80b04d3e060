// Package limits holds the bounds of a machine, for those who check a request
// without linking the machine.
package limits

const (
	// MaxMemory is what fits below the 64-bit PCI window, in bytes.
	MaxMemory = 255 << 30
	// MinMemory is what the boot structures and any kernel need at least.
	MinMemory = 16 << 20
	// MaxCPUs is what the APIC tables and KVM's limits were tested with.
	MaxCPUs = 64
	// MaxNetQueues is how many pairs of queues a network device has at most: one for
	// each processor.
	MaxNetQueues = MaxCPUs
)
