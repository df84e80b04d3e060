package memory_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/memory"
)

func fileOf(t *testing.T, n int) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "f"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		_, err = f.Write(bytes.Repeat([]byte{7}, n))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestAMappedFileEndsInZeroes(t *testing.T) {
	const n = memory.PageSize + 100
	m, err := memory.MapFile(fileOf(t, n), n, false)
	if err != nil {
		t.Fatal(err)
	}
	b := m.Bytes()
	if len(b) != memory.HugePageSize || b[0] != 7 || b[n-1] != 7 || !bytes.Equal(b[n:], make([]byte, len(b)-n)) {
		t.Errorf("%d bytes that begin with %d and end with %d", len(b), b[0], b[len(b)-1])
	}
	for range 2 {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestWritesReachAFileThatIsMappedForThat(t *testing.T) {
	f := fileOf(t, memory.HugePageSize)
	m, err := memory.MapFile(f, memory.HugePageSize, true)
	if err != nil {
		t.Fatal(err)
	}
	m.Bytes()[memory.HugePageSize-1] = 9
	got := make([]byte, 1)
	if _, err := f.ReadAt(got, memory.HugePageSize-1); err != nil || got[0] != 9 {
		t.Errorf("the file has %d, %v", got, err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhatCannotBeMappedIsRefused(t *testing.T) {
	f := fileOf(t, 10)
	if _, err := memory.MapFile(f, 0, false); err == nil {
		t.Error("nothing was mapped")
	}
	closed := fileOf(t, 10)
	_ = closed.Close()
	if _, err := memory.MapFile(closed, 10, false); err == nil {
		t.Error("a closed file was mapped")
	}
}
