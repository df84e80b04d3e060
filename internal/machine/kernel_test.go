package machine

import (
	"encoding/binary"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/internal/machine/microguest"
	"github.com/hvctl/hvctl/internal/testenv"
)

// Where a micro-kernel lies, and a counter that it may use.
const (
	kernelAt  = microguest.KernelAt
	counterAt = microguest.CounterAt
)

// microKernel writes a kernel of the given 32-bit code and returns its path. A
// few instructions are all that some hosts can run.
func microKernel(t testing.TB, code ...byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := microguest.Write(path, code...); err != nil {
		t.Fatal(err)
	}
	return path
}

// outb is code that writes v to an I/O port and then spins.
func outb(port uint16, v byte) []byte {
	return []byte{0x66, 0xba, byte(port), byte(port >> 8), 0xb0, v, 0xee, 0xeb, 0xfe}
}

// spin counts at counterAt for ever.
var spin = microguest.Spin

func (m *Machine) counted(t testing.TB) uint32 {
	t.Helper()
	b, err := m.mem.Slice(counterAt, 4)
	if err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint32(b)
}

// newMachine makes a machine of 16 MiB with the given code as its kernel.
func newMachine(t testing.TB, c Config, code ...byte) *Machine {
	t.Helper()
	testenv.Require(t, testenv.KVM)
	if c.MemoryBytes == 0 {
		c.MemoryBytes = 16 << 20
	}
	c.Kernel = microKernel(t, code...)
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}
