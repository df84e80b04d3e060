package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/qcow2"
	"github.com/hvctl/hvctl/internal/testenv"
)

func open(t testing.TB, image []byte) (*qcow2.Image, error) {
	t.Helper()
	return qcow2.Open(bytes.NewReader(image), int64(len(image)))
}

// same compares the disk of an image with what it should hold, at random places.
func same(t *testing.T, im *qcow2.Image, disk []byte) {
	t.Helper()
	if im.Size() != uint64(len(disk)) {
		t.Fatalf("a disk of %d bytes, want %d", im.Size(), len(disk))
	}
	all := make([]byte, len(disk))
	if n, err := im.ReadAt(all, 0); n != len(all) || err != nil || !bytes.Equal(all, disk) {
		t.Fatalf("all of it: %d, %v, equal %v", n, err, bytes.Equal(all, disk))
	}
	for range 200 {
		off := rand.IntN(len(disk))
		p := make([]byte, 1+rand.IntN(min(len(disk)-off, 200_000)))
		if n, err := im.ReadAt(p, int64(off)); n != len(p) || err != nil || !bytes.Equal(p, disk[off:off+len(p)]) {
			t.Fatalf("%d bytes at %d: %d, %v", len(p), off, n, err)
		}
	}
}

func TestImagesOfAllKindsAreRead(t *testing.T) {
	for _, bits := range []uint32{9, 12, 16, 21} {
		for _, zst := range []bool{false, true} {
			w := write(t, bits, zst, stored, absent, packed, packed, zeroed, stored, packed, absent, stored)
			im, err := open(t, w.image)
			must(t, err)
			same(t, im, w.disk)
		}
	}
}

// qemu-img's images, compressed and not, of both versions.
func TestImagesOfQEMUAreRead(t *testing.T) {
	testenv.Require(t, testenv.QEMUImg)
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	disk := make([]byte, 3<<20+512)
	for i := 1 << 20; i < 1<<20+300_000; i++ {
		disk[i] = byte(i / 100)
	}
	copy(disk[2<<20:], "something else")
	copy(disk[len(disk)-10:], "the end...")
	must(t, os.WriteFile(raw, disk, 0o600))
	for i, options := range []string{"-o compat=0.10", "-o compat=1.1", "-c", "-c -o compression_type=zstd", "-o cluster_size=512", "-c -o cluster_size=2M", "-o preallocation=metadata"} {
		file := filepath.Join(dir, string(rune('a'+i)))
		args := append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, strings.Fields(options)...), raw, file)
		if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img %s: %v: %s", args, err, out)
		}
		b, err := os.ReadFile(file)
		must(t, err)
		im, err := open(t, b)
		if err != nil {
			t.Fatalf("%s: %v", options, err)
		}
		same(t, im, disk)
	}
	based := filepath.Join(dir, "based")
	if out, err := exec.Command("qemu-img", "create", "-f", "qcow2", "-b", raw, "-F", "raw", based).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(based)
	must(t, err)
	if _, err := open(t, b); !errors.Is(err, qcow2.ErrImage) || !strings.Contains(err.Error(), "based on another file") {
		t.Errorf("an image with a backing file: %v", err)
	}
}

func TestImagesThatAskForTooMuchAreRefused(t *testing.T) {
	be := binary.BigEndian
	good := func() []byte { return write(t, 12, false, stored, packed, absent).image }
	for says, spoil := range map[string]func(b []byte){
		"does not begin":        func(b []byte) { b[0] = 'x' },
		"version 4":             func(b []byte) { be.PutUint32(b[4:], 4) },
		"based on another file": func(b []byte) { be.PutUint64(b[8:], 0x200); be.PutUint32(b[16:], 11); copy(b[0x200:], "/etc/shadow") },
		"which it may not":      func(b []byte) { be.PutUint32(b[16:], 11) },
		"encrypted":             func(b []byte) { be.PutUint32(b[32:], 1) },
		"clusters of 2^8":       func(b []byte) { be.PutUint32(b[20:], 8) },
		"clusters of 2^63":      func(b []byte) { be.PutUint32(b[20:], 63) },
		"a disk of 0":           func(b []byte) { be.PutUint64(b[24:], 0) },
		"a disk of 513":         func(b []byte) { be.PutUint64(b[24:], 513) },
		"up to 64 TiB":          func(b []byte) { be.PutUint64(b[24:], 1<<63) },
		"table of 33554432":     func(b []byte) { be.PutUint64(b[24:], 64<<40) },
		"the disk needs 2":      func(b []byte) { be.PutUint64(b[24:], 3<<20) },
		"outside of the file":   func(b []byte) { be.PutUint64(b[40:], 1<<40) },
		"not at a cluster":      func(b []byte) { be.PutUint64(b[40:], 1<<12+8) },
		"marked as corrupt":     func(b []byte) { be.PutUint64(b[72:], 2) },
		"in another file":       func(b []byte) { be.PutUint64(b[72:], 4) },
		"extended L2":           func(b []byte) { be.PutUint64(b[72:], 16) },
		"does not know":         func(b []byte) { be.PutUint64(b[72:], 1<<40) },
		"header of 5":           func(b []byte) { be.PutUint32(b[100:], 5) },
		"compression of type 7": func(b []byte) { be.PutUint64(b[72:], 8); b[104] = 7 },
	} {
		b := good()
		spoil(b)
		if _, err := open(t, b); !errors.Is(err, qcow2.ErrImage) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	for n := range 200 {
		if _, err := open(t, good()[:n]); err == nil {
			t.Errorf("%d bytes are an image", n)
		}
	}
}

// A table that leads out of the file is an error of that read, and of no other.
func TestABrokenClusterIsOneFailedRead(t *testing.T) {
	w := write(t, 12, false, stored, stored, packed, stored)
	binary.BigEndian.PutUint64(w.image[2<<12+8:], 1<<50)
	binary.BigEndian.PutUint64(w.image[2<<12+16:], 1<<62|5) // compressed, in the header
	im, err := open(t, w.image)
	must(t, err)
	p := make([]byte, 512)
	for cluster, bad := range []bool{false, true, true, false} {
		n, err := im.ReadAt(p, int64(cluster)<<12)
		if (err != nil) != bad || bad && !errors.Is(err, qcow2.ErrImage) || !bad && !bytes.Equal(p, w.disk[cluster<<12:][:512]) {
			t.Errorf("cluster %d: %d, %v", cluster, n, err)
		}
	}
	for _, off := range []int64{-1, int64(im.Size()) - 511, 1 << 62} {
		if _, err := im.ReadAt(p, off); !errors.Is(err, qcow2.ErrImage) {
			t.Errorf("at %d: %v", off, err)
		}
	}
}

// counted counts what is read of a file.
type counted struct {
	r     io.ReaderAt
	bytes int64
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.r.ReadAt(p, off)
	c.bytes += int64(n)
	return n, err
}

// FuzzImage: whatever an image says, a read ends, and costs a few clusters.
func FuzzImage(f *testing.F) {
	for _, kinds := range [][]int{{stored, packed, absent, zeroed}, {packed, packed}} {
		f.Add(write(f, 9, false, kinds...).image, uint32(0), uint16(700))
		f.Add(write(f, 12, true, kinds...).image, uint32(4096), uint16(4096))
	}
	f.Fuzz(func(t *testing.T, image []byte, off uint32, n uint16) {
		c := &counted{r: bytes.NewReader(image)}
		im, err := qcow2.Open(c, int64(len(image)))
		if err != nil {
			if !errors.Is(err, qcow2.ErrImage) {
				t.Errorf("%v", err)
			}
			return
		}
		c.bytes = 0
		p := make([]byte, n)
		_, err = im.ReadAt(p, int64(off))
		if err != nil && !errors.Is(err, qcow2.ErrImage) {
			t.Errorf("%v", err)
		}
		// Of each cluster that is touched: its table and itself, compressed at worst.
		if most := (int64(n)/512 + 2) * 4 * int64(len(image)+4096); c.bytes > most {
			t.Errorf("a read of %d bytes read %d of an image of %d", n, c.bytes, len(image))
		}
	})
}
