package snapshot

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/wire"
)

var update = flag.Bool("update", false, "write the golden file of the current format version")

// sample returns the bytes of a small snapshot: 2 MiB of RAM, four pages of it
// stored. Its memory is the file's second 2 MiB, its index what follows.
func sample(t testing.TB, base *Ref) []byte {
	t.Helper()
	g, err := memory.New(memory.Options{Size: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Close() }()
	for _, p := range []int{0, 1, 17, 511} {
		g.Regions()[0].Bytes[p*pageSize+p] = byte(p) | 1
	}
	c := Content{Regions: g.Regions(), MemoryFD: g.FD(), Description: json.RawMessage(`{"a":1}`), Sections: []state.Section{
		{Path: "vcpu/0", Version: 3, CRC: wire.CRC(0, []byte(`{"b":2}`)), Payload: json.RawMessage(`{"b":2}`)},
	}}
	if base != nil {
		c.Base, c.Dirty = base, [][]uint64{{1<<0 | 1<<2 | 1<<17, 0, 0, 0, 0, 0, 0, 1 << 63}}
	}
	path := filepath.Join(t.TempDir(), "sample")
	if _, err := Write(t.Context(), path, c, Options{}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// seal makes header checksum and identity right again, as a forger would.
func seal(b []byte) []byte {
	id := identity(b[:hashedSize], b[4<<20:])
	copy(b[hashedSize:], id[:])
	binary.LittleEndian.PutUint32(b[headerSize-4:], wire.CRC(0, b[:headerSize-4]))
	return b
}

func openBytes(t testing.TB, b []byte) (*Snapshot, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path)
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

func TestOpenRefusesForgeries(t *testing.T) {
	full, diff := sample(t, nil), sample(t, &Ref{9})
	le := binary.LittleEndian
	const ix = 4 << 20 // where the index begins
	// Offsets in the index: 4 count, 24 region, 4+7 description, 4 count, 2+6 path, version, CRC, 4+7 payload, tables.
	const desc, sect, tables = ix + 28, ix + 39, ix + 39 + 4 + 8 + 8 + 11
	for _, tc := range []struct {
		name  string
		from  []byte
		forge func(b []byte) []byte
		is    error
		want  string
	}{
		{"empty", full, func(b []byte) []byte { return nil }, ErrNotSnapshot, ""},
		{"half a header", full, func(b []byte) []byte { return b[:2048] }, ErrNotSnapshot, ""},
		{"another magic", full, func(b []byte) []byte { b[0] = 'X'; return seal(b) }, ErrNotSnapshot, ""},
		{"newer version", full, func(b []byte) []byte { le.PutUint32(b[8:], 7); return b }, ErrVersion, "version 7, this build reads 0 and 1"},
		{"version 0", full, func(b []byte) []byte { le.PutUint32(b[8:], 0); return seal(b) }, ErrVersion, "version 0"},
		{"unknown flag", full, func(b []byte) []byte { b[12] |= 2; return seal(b) }, ErrVersion, "unknown flags"},
		{"header checksum", full, func(b []byte) []byte { b[20] ^= 1; return b }, ErrCorrupt, "header's checksum"},
		{"header padding", full, func(b []byte) []byte { b[3000] = 1; return seal(b) }, ErrCorrupt, "unused bytes"},
		{"diff without base", full, func(b []byte) []byte { b[12] |= 1; return seal(b) }, ErrCorrupt, "diff is true"},
		{"base without diff", diff, func(b []byte) []byte { b[12] = 0; return seal(b) }, ErrCorrupt, "diff is false"},
		{"truncated", full, func(b []byte) []byte { return b[:len(b)-1] }, ErrCorrupt, "its header says"},
		{"appended", full, func(b []byte) []byte { return append(b, 0) }, ErrCorrupt, "its header says"},
		{"index beyond the bound", full, func(b []byte) []byte { le.PutUint64(b[32:], maxIndex+1); return seal(b) }, ErrCorrupt, "at most"},
		{"index not at the end", full, func(b []byte) []byte { le.PutUint64(b[32:], 8); return seal(b) }, ErrCorrupt, "end with the file"},
		{"index offset wraps", full, func(b []byte) []byte { le.PutUint64(b[24:], ^uint64(0)-4); return seal(b) }, ErrCorrupt, "end with the file"},
		{"index over the header", full, func(b []byte) []byte {
			le.PutUint64(b[24:], 100)
			le.PutUint64(b[32:], uint64(len(b))-100)
			return seal(b)
		}, ErrCorrupt, "end with the file"},
		{"index changed", full, func(b []byte) []byte { b[tables] ^= 4; return b }, ErrCorrupt, "identity"},
		{"no regions", full, func(b []byte) []byte { le.PutUint32(b[ix:], 0); return seal(b) }, ErrCorrupt, "number of regions is 0"},
		{"a billion regions", full, func(b []byte) []byte { le.PutUint32(b[ix:], 1<<30); return seal(b) }, ErrCorrupt, "number of regions"},
		{"region misaligned", full, func(b []byte) []byte { le.PutUint64(b[ix+4:], 17); return seal(b) }, ErrCorrupt, "multiple"},
		{"region wraps", full, func(b []byte) []byte { le.PutUint64(b[ix+4:], ^uint64(0)&^4095); return seal(b) }, ErrCorrupt, "wraps"},
		{"region empty", full, func(b []byte) []byte { le.PutUint64(b[ix+12:], 0); return seal(b) }, ErrCorrupt, "multiple"},
		{"region of 2^62 bytes", full, func(b []byte) []byte { le.PutUint64(b[ix+12:], 1<<62); return seal(b) }, ErrCorrupt, "GiB"},
		{"region of 1 TiB", full, func(b []byte) []byte { le.PutUint64(b[ix+12:], 1<<40); return seal(b) }, ErrCorrupt, "memory ends at"},
		{"region elsewhere in the file", full, func(b []byte) []byte { le.PutUint64(b[ix+20:], 1<<20); return seal(b) }, ErrCorrupt, "is at offset"},
		{"description of 4 GiB", full, func(b []byte) []byte { le.PutUint32(b[desc:], ^uint32(0)); return seal(b) }, ErrCorrupt, "description"},
		{"description no JSON", full, func(b []byte) []byte { b[desc+4] = '['; return seal(b) }, ErrCorrupt, "no JSON"},
		{"a million sections", full, func(b []byte) []byte { le.PutUint32(b[sect:], 1<<20); return seal(b) }, ErrCorrupt, "number of state sections"},
		{"section without a path", full, func(b []byte) []byte { le.PutUint16(b[sect+4:], 0); return seal(b) }, ErrCorrupt, ""},
		{"section of 4 GiB", full, func(b []byte) []byte { le.PutUint32(b[sect+20:], ^uint32(0)); return seal(b) }, ErrCorrupt, "vcpu/0 length"},
		{"section checksum", full, func(b []byte) []byte { b[sect+24+3] ^= 1; return seal(b) }, ErrCorrupt, "vcpu/0 has a wrong checksum"},
		{"tables too short", full, func(b []byte) []byte {
			b = b[:len(b)-4]
			le.PutUint64(b[16:], uint64(len(b)))
			le.PutUint64(b[32:], uint64(len(b)-ix))
			return seal(b)
		}, ErrCorrupt, "tables have"},
		{"checksum of nothing", full, func(b []byte) []byte { le.PutUint32(b[len(b)-12:], 1); return seal(b) }, ErrCorrupt, "no pages"},
		{"page stored and zero", diff, func(b []byte) []byte { b[tables+64] |= 1; return seal(b) }, ErrCorrupt, "both stored and zero"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := openBytes(t, tc.forge(bytes.Clone(tc.from)))
			if !errors.Is(err, tc.is) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %v with %q", err, tc.is, tc.want)
			}
		})
	}
	if _, err := openBytes(t, seal(bytes.Clone(full))); err != nil {
		t.Errorf("the sample itself, sealed again: %v", err)
	}
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, t.TempDir(), "/dev/zero"} {
		if _, err := Open(path); !errors.Is(err, ErrNotSnapshot) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A thousand damaged files: one to four bytes changed, or the end cut off.
// Whatever passes Open must fail Verify and ReadInto.
func TestEveryDamageIsFound(t *testing.T) {
	whole := sample(t, nil)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "s")
	g, err := memory.New(memory.Options{Size: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Close() }()
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var opened int
	for i := range 1000 {
		var at []int
		if cut := i%10 == 0; cut {
			if err := f.Truncate(int64(rng.IntN(len(whole)))); err != nil {
				t.Fatal(err)
			}
		} else {
			for range 1 + rng.IntN(4) {
				at = append(at, damagePoint(rng, len(whole)))
			}
			for _, p := range at {
				if _, err := f.WriteAt([]byte{whole[p] ^ byte(1<<rng.IntN(8))}, int64(p)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if s, err := Open(path); err == nil {
			opened++
			if verr := s.Verify(t.Context(), Options{Workers: 1}); !errors.Is(verr, ErrCorrupt) {
				t.Errorf("damage at %v passed Verify: %v", at, verr)
			}
			_ = s.Close()
		} else if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrNotSnapshot) {
			t.Errorf("damage at %v: %v has no kind", at, err)
		}
		if at == nil {
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range at {
			if _, err := f.WriteAt(whole[p:p+1], int64(p)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if opened < 50 {
		t.Errorf("only %d of the damaged files had their damage in memory", opened)
	}
}

// damagePoint picks an offset: in the header, in memory, or in the index.
func damagePoint(rng *rand.Rand, size int) int {
	switch rng.IntN(3) {
	case 0:
		return rng.IntN(headerSize)
	case 1:
		return memoryStart + rng.IntN(2<<20)
	default:
		return 4<<20 + rng.IntN(size-4<<20)
	}
}

func TestRestoreFindsRottenMemory(t *testing.T) {
	b := sample(t, nil)
	b[memoryStart+17*pageSize] ^= 0x80
	s, err := openBytes(t, b)
	if err != nil {
		t.Fatal(err)
	}
	g, err := memory.New(memory.Options{Size: 2 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Close() }()
	err = s.ReadInto(t.Context(), g.Regions(), Options{})
	if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "memory at 0x10000") {
		t.Errorf("error %v does not name the place", err)
	}
}

// A file may claim as much as it likes: what is allocated stays within twice
// its index and some.
func TestOpenAllocatesWithinTheBound(t *testing.T) {
	b := sample(t, nil)
	le := binary.LittleEndian
	le.PutUint32(b[4<<20+39:], wire.MaxSections) // sections that are not there
	le.PutUint64(b[4<<20+12:], 1<<40)            // RAM that is not there
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, seal(b), 0o600); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Open(path); !errors.Is(err, ErrCorrupt) {
		t.Errorf("error %v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<10 {
		t.Errorf("a file with an index of %d bytes made us allocate %d", len(b)-4<<20, n)
	}
}

// TestOldFilesStayReadable keeps a file of every version that was ever
// released; -update adds the current one.
func TestOldFilesStayReadable(t *testing.T) {
	name := filepath.Join("testdata", fmt.Sprintf("v%d.gz", Version))
	if *update {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, err := w.Write(sample(t, nil))
		if err := errors.Join(err, w.Close(), os.WriteFile(name, z.Bytes(), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for v := max(uint32(1), Version-1); v <= Version; v++ {
		z, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("v%d.gz", v)))
		if err != nil {
			t.Fatal(err)
		}
		r, err := gzip.NewReader(bytes.NewReader(z))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		s, err := openBytes(t, b)
		if err != nil {
			t.Fatalf("version %d: %v", v, err)
		}
		if err := s.Verify(t.Context(), Options{}); err != nil {
			t.Error(err)
		}
		if n, _ := s.Pages(); n != 4 || s.Version() != v || string(s.Sections()[0].Payload) != `{"b":2}` || string(s.Description()) != `{"a":1}` {
			t.Errorf("version %d: %d pages, %+v", v, n, s.x)
		}
	}
}

func FuzzHeader(f *testing.F) {
	b := sample(f, nil)
	f.Add(b[:128], uint64(len(b)))
	f.Add(sample(f, &Ref{1})[:128], uint64(len(b)))
	f.Fuzz(func(t *testing.T, front []byte, size uint64) {
		b := make([]byte, headerSize)
		copy(b[:headerSize-4], front)
		binary.LittleEndian.PutUint32(b[headerSize-4:], wire.CRC(0, b[:headerSize-4]))
		h, err := decodeHeader(b, size)
		if err == nil && (h.indexLen > maxIndex || h.indexOff+h.indexLen != size || h.indexOff < memoryStart) {
			t.Errorf("accepted %+v of a file of %d bytes", h, size)
		}
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrNotSnapshot) {
			t.Errorf("error without a kind: %v", err)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add(sample(f, nil)[4<<20:], uint64(4<<20), false)
	f.Add(sample(f, &Ref{1})[4<<20:], uint64(4<<20), true)
	f.Fuzz(func(t *testing.T, b []byte, off uint64, diff bool) {
		x, err := decodeIndex(b, header{indexOff: off, diff: diff})
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("error without a kind: %v", err)
			}
			return
		}
		again, err := x.encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("accepted bytes are not what the decoded index encodes to: %v", err)
		}
	})
}
