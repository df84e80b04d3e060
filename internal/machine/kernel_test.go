package machine

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
)

// Where a micro-kernel lies, and a counter that it may use.
const (
	kernelAt  = 0x100000
	counterAt = 0x180000
)

// microKernel writes an ELF kernel with a PVH entry whose 32-bit code is given,
// and returns its path. A few instructions are all that some hosts can run.
func microKernel(t testing.TB, code ...byte) string {
	t.Helper()
	const headers = 64 + 2*56
	note := []byte{4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, 'X', 'e', 'n', 0}
	note = binary.LittleEndian.AppendUint32(note, kernelAt)
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // a buffer never fails
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	put([]uint16{2, 62}) // EXEC, x86-64
	put(uint32(1))
	put([]uint64{kernelAt, 64, 0}) // entry, program headers
	put(uint32(0))
	put([]uint16{64, 56, 2, 0, 0, 0})
	load := []uint64{headers + uint64(len(note)), kernelAt, kernelAt, uint64(len(code)), 0x100000, 0x1000}
	put([]uint32{1, 7})
	put(load)
	put([]uint32{4, 4})
	put([]uint64{headers, 0, 0, uint64(len(note)), uint64(len(note)), 4})
	b.Write(note)
	b.Write(code)
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// outb is code that writes v to an I/O port and then spins.
func outb(port uint16, v byte) []byte {
	return []byte{0x66, 0xba, byte(port), byte(port >> 8), 0xb0, v, 0xee, 0xeb, 0xfe}
}

// spin counts at counterAt for ever.
var spin = []byte{0xf0, 0xff, 0x05, 0x00, 0x00, 0x18, 0x00, 0xeb, 0xf7}

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
