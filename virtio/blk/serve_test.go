package blk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

func vec(b ...[]byte) (v memory.Vec) {
	for _, x := range b {
		v.Append(x)
	}
	return v
}

func testDevice(t testing.TB, size int) *Device {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xd5}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func rawHeader(kind uint32, sector uint64) []byte {
	b := make([]byte, headerSize)
	binary.LittleEndian.PutUint32(b, kind)
	binary.LittleEndian.PutUint64(b[8:], sector)
	return b
}

// A read, a write and their statuses allocate nothing, however many buffers.
func TestHotPathDoesNotAllocate(t *testing.T) {
	d := testDevice(t, 1<<20)
	pages := make([][]byte, 126)
	for i := range pages {
		pages[i] = make([]byte, 4096)
	}
	var status [1]byte
	in := virtio.Chain{Readable: vec(rawHeader(typeIn, 0)), Writable: vec(append(append([][]byte{}, pages...), status[:])...)}
	out := virtio.Chain{Readable: vec(append([][]byte{rawHeader(typeOut, 8)}, pages...)...), Writable: vec(status[:])}
	n := testing.AllocsPerRun(50, func() {
		for _, c := range []*virtio.Chain{&in, &out} {
			r, err := parse(*c)
			if err != nil {
				t.Fatal(err)
			}
			if st, _ := d.workers[0].serve(r); st != statusOK {
				t.Fatalf("status %d", st)
			}
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// More buffers than one call takes, and calls that move less than asked: here
// because a page of the destination is missing, which the kernel notices only
// when it gets there.
func TestTransfersGoOnWhereACallStopped(t *testing.T) {
	d := testDevice(t, 64<<10)
	want := make([]byte, 64<<10)
	for i := range want {
		want[i] = byte(i ^ i>>8)
	}
	pieces := func(b []byte) (l [][]byte) {
		for len(b) > 0 {
			n := min(len(b), 17)
			l, b = append(l, b[:n]), b[n:]
		}
		return l
	}
	if err := d.im.write(&d.workers[0].vec, pieces(want), 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if err := d.im.read(&d.workers[0].vec, pieces(got), 0); err != nil || !bytes.Equal(got, want) {
		t.Fatal("read back differs", err)
	}

	m, err := unix.Mmap(-1, 0, 3*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(m) }()
	if err := unix.Mprotect(m[4096:8192], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	if err := d.im.read(&d.workers[0].vec, [][]byte{m}, 0); !errors.Is(err, unix.EFAULT) {
		t.Errorf("read into nothing: %v", err)
	}
	if !bytes.Equal(m[:4096], want[:4096]) {
		t.Error("the part before the hole was not read")
	}
}

func TestAdvance(t *testing.T) {
	for n := range 11 {
		all := []byte("0123456789")
		bufs := advance([][]byte{all[:1], all[1:4], all[4:10]}, n)
		if got := bytes.Join(bufs, nil); !bytes.Equal(got, all[n:]) {
			t.Errorf("after %d: %q", n, got)
		}
		for _, b := range bufs {
			if len(b) == 0 {
				t.Errorf("after %d: an empty buffer", n)
			}
		}
	}
}

// What a host does that cannot zero a range by itself.
func TestZeroesCanBeWritten(t *testing.T) {
	d := testDevice(t, 1<<20)
	want := bytes.Repeat([]byte{0xd5}, 1<<20)
	for _, s := range []span{{512, 512}, {4096, 200_192}, {1<<20 - 512, 512}, {0, 0}} {
		if err := d.im.writeZeroes(&d.workers[0].vec, s); err != nil {
			t.Fatal(err)
		}
		clear(want[s.off:][:s.n])
		if got, err := os.ReadFile(d.im.f.Name()); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("after %v the image differs (%v)", s, err)
		}
	}
	for _, err := range []error{unix.EOPNOTSUPP, os.NewSyscallError("fallocate", unix.EINVAL)} {
		if !cannot(err) {
			t.Errorf("%v does not ask for it", err)
		}
	}
	if cannot(nil) || cannot(unix.ENOSPC) || cannot(unix.EIO) {
		t.Error("a real failure is taken for a missing ability")
	}
}

// On a disk that is large enough the limits on one segment still hold.
func TestSegmentLimits(t *testing.T) {
	for _, c := range []struct {
		sector  uint64
		sectors uint32
		ok      bool
	}{{0, 1000, true}, {1<<40 - 1000, 1000, true}, {0, 1001, false}, {1<<40 - 999, 1000, false}, {1 << 40, 0, true}, {1<<40 + 1, 0, false}} {
		s := segment{sector: c.sector, sectors: c.sectors}
		if err := s.check(1<<40, 1000, 0); (err == nil) != c.ok || err != nil && !errors.Is(err, errRefused) {
			t.Errorf("%+v: %v", c, err)
		} else if c.ok && (s.off != int64(c.sector)*512 || s.n != int64(c.sectors)*512) {
			t.Errorf("%+v is at %+v", c, s.span)
		}
	}
}

// FuzzRequest: any bytes cut in any way give a status or a driver's mistake;
// what is outside the disk stays untouched, and what is inside changes only as
// the request says.
func FuzzRequest(f *testing.F) {
	seed := func(kind uint32, sector uint64, rest []byte, cut byte, writable uint16) {
		f.Add(append(rawHeader(kind, sector), rest...), cut, writable)
	}
	seed(typeIn, 0, nil, 16, 513)
	seed(typeIn, ^uint64(0), nil, 3, 1025)
	seed(typeOut, 3, make([]byte, 512), 100, 1)
	seed(typeOut, 1<<55, make([]byte, 1024), 8, 1)
	seed(typeFlush, 0, nil, 0, 1)
	seed(typeGetID, 0, nil, 1, 21)
	one := append(make([]byte, 8), 1, 0, 0, 0, 0, 0, 0, 0)
	seed(typeDiscard, 0, append(one, one...), 20, 1)
	seed(typeWriteZeroes, 0, one, 20, 1)
	seed(77, 0, nil, 0, 2)
	d := testDevice(f, 16*sectorSize)
	clean := bytes.Repeat([]byte{0xd5}, 16*sectorSize)
	f.Fuzz(func(t *testing.T, readable []byte, cut byte, writable uint16) {
		d.writeThrough = cut&1 != 0
		k := min(int(cut), len(readable))
		w := make([]byte, writable)
		h := min(int(cut), len(w))
		c := virtio.Chain{Readable: vec(readable[:k], readable[k:]), Writable: vec(w[:h], w[h:])}
		before := bytes.Clone(readable)
		r, err := parse(c)
		if err != nil {
			if !errors.Is(err, virtio.ErrGuest) || len(readable) >= headerSize && len(w) > 0 {
				t.Fatal(err)
			}
			return
		}
		st, n := d.workers[0].serve(r)
		switch {
		case st > statusUnsupported, n < 0, n > len(w)-1, st != statusOK && n != 0:
			t.Fatalf("status %d, %d bytes of %d", st, n, len(w))
		case !bytes.Equal(before, readable):
			t.Fatal("the readable part changed")
		}
		if d.metrics.Failures.Load() != 0 {
			t.Fatal("the guest made the host fail")
		}
		got, err := os.ReadFile(d.im.f.Name())
		if err != nil || len(got) != len(clean) {
			t.Fatalf("the image has %d bytes, %v", len(got), err)
		}
		if r.kind == typeIn && st == statusOK && !bytes.Equal(w[:n], clean[r.sector*sectorSize:][:n]) {
			t.Fatal("wrong data read")
		}
		if r.changes() && st == statusOK {
			if err := os.WriteFile(d.im.f.Name(), clean, 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(got, clean) {
			t.Fatalf("type %d with status %d changed the disk", r.kind, st)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	d := testDevice(b, 1<<20)
	page, status := make([]byte, 4096), make([]byte, 1)
	c := virtio.Chain{Readable: vec(rawHeader(typeIn, 0)), Writable: vec(page, status)}
	b.SetBytes(4096)
	for b.Loop() {
		r, err := parse(c)
		if err != nil {
			b.Fatal(err)
		}
		if st, _ := d.workers[0].serve(r); st != statusOK {
			b.Fatal(st)
		}
	}
}
