package workload

import "context"

// Dumper is a Runtime that can write its memory and registers down for a
// debugger.
type Dumper interface {
	// Dump makes file, an absolute path of what does not exist yet. What the
	// instance does stands still meanwhile.
	Dump(ctx context.Context, file string) (DumpReport, error)
}

// DumpReport says what a core file holds.
type DumpReport struct {
	SizeBytes   uint64 `json:"sizeBytes"`   // of the file, holes included
	StoredBytes uint64 `json:"storedBytes"` // of memory, without holes
	CPUs        int    `json:"cpus"`
	Mappings    int    `json:"mappings"`   // of addresses of the guest's kernel
	VMCoreInfo  bool   `json:"vmcoreinfo"` // the guest's kernel has described itself
}
