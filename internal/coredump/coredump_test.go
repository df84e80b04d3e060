package coredump

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
)

func create(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "core"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func ram(t *testing.T) *memory.Guest {
	t.Helper()
	g, err := memory.New(memory.Options{Regions: []memory.Span{{GPA: 0, Size: 32 << 20}, {GPA: 4 << 30, Size: 1 << 20}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// vmcoreinfo is the note as a guest has it.
func vmcoreinfo(text string) []byte { return note(nil, coreInfo, ntCoreInfo, []byte(text)) }

func TestCoreHoldsMemoryRegistersAndMappings(t *testing.T) {
	g := ram(t)
	for at, text := range map[memory.GPA]string{0x1234: "low", 20 << 20: "kernel", 4<<30 + 7: "high", 0x7000: string(vmcoreinfo("OSRELEASE=6.1\n"))} {
		if err := g.WriteAt([]byte(text), at); err != nil {
			t.Fatal(err)
		}
	}
	for name, fd := range map[string]int{"with a file": g.FD(), "without": -1} {
		t.Run(name, func(t *testing.T) {
			f := create(t)
			r, err := Write(t.Context(), f, Guest{
				CPUs: []CPU{{RIP: 0xabc}, {RIP: 0xdef, CR3: 0x1000}}, Regions: g.Regions(), FD: fd,
				Maps: []Mapping{{Virtual: 0xffffffff81000000, GPA: 20 << 20, Size: 2 << 20}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if r.StoredBytes != 4*memory.PageSize || !r.VMCoreInfo || r.CPUs != 2 || r.Mappings != 1 {
				t.Errorf("%+v", r)
			}
			var st unix.Stat_t
			if err := unix.Fstat(int(f.Fd()), &st); err != nil || uint64(st.Size) != r.SizeBytes || st.Blocks*512 > 256<<10 {
				t.Errorf("file of %d bytes in %d blocks, %v", st.Size, st.Blocks, err)
			}
			e, err := elf.NewFile(f)
			if err != nil || e.Type != elf.ET_CORE || e.Machine != elf.EM_X86_64 {
				t.Fatalf("%+v, %v", e, err)
			}
			for at, want := range map[uint64]string{0x1234: "low", 20 << 20: "kernel", 0xffffffff81000000: "kernel", 4<<30 + 7: "high"} {
				if got := string(read(t, e, at, len(want))); got != want {
					t.Errorf("%q at %#x, want %q", got, at, want)
				}
			}
			notes, err := io.ReadAll(e.Progs[0].Open())
			if err != nil || e.Progs[0].Type != elf.PT_NOTE || !bytes.HasSuffix(notes, vmcoreinfo("OSRELEASE=6.1\n")) {
				t.Errorf("%d bytes of notes, %v", len(notes), err)
			}
			if n := bytes.Count(notes, []byte("CORE\x00\x00\x00\x00")); n != 4 {
				t.Errorf("%d notes of CPUs, want 4", n)
			}
			status := notes[20:]
			if rip := binary.LittleEndian.Uint64(status[112+16*8:]); rip != 0xabc {
				t.Errorf("rip %#x", rip)
			}
		})
	}
}

// read returns n bytes at a virtual address.
func read(t *testing.T, e *elf.File, at uint64, n int) []byte {
	t.Helper()
	for _, p := range e.Progs {
		if p.Type == elf.PT_LOAD && at >= p.Vaddr && at-p.Vaddr < p.Memsz {
			b := make([]byte, n)
			if _, err := p.ReadAt(b, int64(at-p.Vaddr)); err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	return nil
}

func TestNotesHaveTheSizesOfTheirStructures(t *testing.T) {
	var c CPU
	if n := len(c.prstatus(0)); n != 336 {
		t.Errorf("elf_prstatus of %d bytes, want 336", n)
	}
	if n := len(c.qemu()); n != 440 || binary.LittleEndian.Uint32(c.qemu()[4:]) != 440 {
		t.Errorf("QEMUCPUState of %d bytes, want 440", n)
	}
}

func TestWriteRefusesAndGivesUp(t *testing.T) {
	g := ram(t)
	if _, err := Write(t.Context(), create(t), Guest{Maps: make([]Mapping, MaxMaps+1)}); err == nil || !strings.Contains(err.Error(), "60001 mappings") {
		t.Errorf("too many mappings: %v", err)
	}
	if _, err := Write(t.Context(), create(t), Guest{Regions: g.Regions(), FD: -1, Maps: []Mapping{{GPA: 32<<20 - 4096, Size: 8192}}}); err == nil {
		t.Error("a mapping beyond memory was taken")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := Write(ctx, create(t), Guest{Regions: g.Regions(), FD: -1}); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzVMCoreInfo(f *testing.F) {
	f.Add(vmcoreinfo("OSRELEASE=6.1\n"))
	f.Add([]byte("\x0b\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00VMCOREINFO\x00\x00OSRELEASE="))
	f.Fuzz(func(t *testing.T, b []byte) {
		if d := coreInfoOf(b); len(d) > maxCoreInfo || d != nil && !bytes.HasPrefix(d, []byte("OSRELEASE=")) {
			t.Errorf("%d bytes: %.20q", len(d), d)
		}
	})
}
