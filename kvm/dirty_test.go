package kvm

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// dirtyCode writes a byte to pages 5 and 9.
var dirtyCode = []byte{0xa2, 0x10, 0x50, 0xa2, 0x20, 0x90, 0xf4}

// warmUp runs the guest once and starts over: KVM may count a page at the first
// read.
func (g *guest) warmUp() {
	g.t.Helper()
	g.expect(ExitHLT)
	g.start(codeAt)
}

func pagesOf(bitmap []uint64) (pages []int) {
	for w, word := range bitmap {
		for b := range 64 {
			if word>>b&1 != 0 {
				pages = append(pages, 64*w+b)
			}
		}
	}
	return pages
}

func TestDirtyLogSeesWrittenPagesOnly(t *testing.T) {
	g := newGuest(t, guestOptions{slotFlags: MemLogDirtyPages})
	g.code(dirtyCode...)
	size := uint64(len(g.mem))
	log := make([]uint64, DirtyBitmapLen(size))
	g.warmUp()
	g.ok(g.vm.DirtyLog(0, size, log))
	g.expect(ExitHLT)
	g.ok(g.vm.DirtyLog(0, size, log))
	if got := pagesOf(log); !slices.Equal(got, []int{5, 9}) {
		t.Errorf("dirty pages %v, want 5 and 9", got)
	}
	g.ok(g.vm.DirtyLog(0, size, log))
	if got := pagesOf(log); len(got) != 0 {
		t.Errorf("pages %v are dirty though nothing ran", got)
	}
	g.start(codeAt)
	g.expect(ExitHLT)
	g.ok(g.vm.DirtyLog(0, size, log))
	if got := pagesOf(log); !slices.Equal(got, []int{5, 9}) {
		t.Errorf("second round: dirty pages %v, want 5 and 9", got)
	}
}

func TestDirtyLogChecksTheBitmap(t *testing.T) {
	g := newGuest(t, guestOptions{slotFlags: MemLogDirtyPages})
	wantErr(t, g.vm.DirtyLog(0, uint64(len(g.mem)), nil), unix.EINVAL)
	wantErr(t, g.vm.DirtyLog(0, 1<<20, make([]uint64, 3)), unix.EINVAL)
	wantErr(t, g.vm.ClearDirtyLog(0, 0, 128, make([]uint64, 1)), unix.EINVAL)
	wantErr(t, g.vm.DirtyLog(7, 4096, make([]uint64, 1)), unix.ENOENT)
	if n := DirtyBitmapLen(65 * 4096); n != 2 {
		t.Errorf("65 pages need %d words, want 2", n)
	}
}

func TestClearDirtyLog(t *testing.T) {
	g := newGuest(t, guestOptions{beforeVCPU: func(g *guest) {
		g.ok(g.vm.EnableCap(CapManualDirtyLogProtect2, DirtyLogManualProtect))
		g.ok(g.vm.SetMemorySlot(0, MemLogDirtyPages, 0, g.mem))
	}})
	g.code(dirtyCode...)
	size := uint64(len(g.mem))
	log := make([]uint64, DirtyBitmapLen(size))
	g.warmUp()
	g.ok(g.vm.DirtyLog(0, size, log))
	g.ok(g.vm.ClearDirtyLog(0, 0, uint32(size/4096), log))
	g.expect(ExitHLT)
	for range 2 { // reading alone does not reset
		g.ok(g.vm.DirtyLog(0, size, log))
		if got := pagesOf(log); !slices.Equal(got, []int{5, 9}) {
			t.Fatalf("dirty pages %v, want 5 and 9", got)
		}
	}
	g.ok(g.vm.ClearDirtyLog(0, 0, uint32(size/4096), []uint64{1 << 5}))
	g.ok(g.vm.DirtyLog(0, size, log))
	if got := pagesOf(log); !slices.Equal(got, []int{9}) {
		t.Errorf("after clearing page 5: dirty pages %v, want 9", got)
	}
}

func TestDirtyRing(t *testing.T) {
	const size = 64 << 10
	g := newGuest(t, guestOptions{beforeVCPU: func(g *guest) {
		g.ok(g.vm.EnableDirtyRing(size))
		g.ok(g.vm.SetMemorySlot(0, MemLogDirtyPages, 0, g.mem))
	}})
	g.code(dirtyCode...)
	ring, err := g.vcpu.MapDirtyRing(size)
	g.ok(err)
	defer ring.Close()
	harvest := func() (pages []int) {
		t.Helper()
		n := ring.Harvest(func(slot uint32, page uint64) {
			if slot != 0 {
				t.Errorf("slot %d, want 0", slot)
			}
			pages = append(pages, int(page))
		})
		if n != len(pages) {
			t.Errorf("Harvest says %d, called back %d times", n, len(pages))
		}
		reset, err := g.vm.ResetDirtyRings()
		g.ok(err)
		if reset != n {
			t.Errorf("%d pages reset, %d harvested", reset, n)
		}
		slices.Sort(pages)
		return slices.Compact(pages)
	}
	g.warmUp()
	harvest()
	for round := range 3 {
		g.start(codeAt)
		g.expect(ExitHLT)
		if got := harvest(); !slices.Equal(got, []int{5, 9}) {
			t.Errorf("round %d: dirty pages %v, want 5 and 9", round, got)
		}
	}
	if got := harvest(); len(got) != 0 {
		t.Errorf("pages %v are dirty though nothing ran", got)
	}
	g.ok(ring.Close())
	g.ok(ring.Close())
	if n := ring.Harvest(func(uint32, uint64) {}); n != 0 {
		t.Errorf("a closed ring gave %d pages", n)
	}
}

func TestDirtyRingFullExits(t *testing.T) {
	const size = 16 << 10 // 1024 entries, of which some are held back
	g := newGuest(t, guestOptions{memory: 8 << 20, beforeVCPU: func(g *guest) {
		g.ok(g.vm.EnableDirtyRing(size))
		g.ok(g.vm.SetMemorySlot(0, MemLogDirtyPages, 0, g.mem))
	}})
	// Hosts that interpret supervisor code look at the ring too rarely there,
	// and it overflows.
	g.userMode()
	// One write to each page from 1 MiB to 6 MiB: 1280 pages, more than fit.
	g.code(
		0xbf, 0, 0, 0x10, 0, // mov edi, 1 MiB
		0xb9, 0, 5, 0, 0, // mov ecx, 1280
		0x89, 0x0f, // again: mov [edi], ecx
		0x81, 0xc7, 0, 0x10, 0, 0, // add edi, 4096
		0xff, 0xc9, // dec ecx
		0x75, 0xf4, // jnz again
		0xe6, 0x80, // out 0x80, al
	)
	ring, err := g.vcpu.MapDirtyRing(size)
	g.ok(err)
	defer ring.Close()
	seen := map[uint64]bool{}
	full := 0
	for {
		r := g.run()
		ring.Harvest(func(_ uint32, page uint64) { seen[page] = true })
		_, err := g.vm.ResetDirtyRings()
		g.ok(err)
		if r == ExitIO {
			break
		}
		if r != ExitDirtyRingFull {
			t.Fatalf("exit %v", r)
		}
		full++
	}
	if full == 0 {
		t.Error("the ring was never full")
	}
	for page := uint64(256); page < 256+1280; page++ {
		if !seen[page] {
			t.Fatalf("page %d was written and not reported; %d pages were, ring full %d times", page, len(seen), full)
		}
	}
}
