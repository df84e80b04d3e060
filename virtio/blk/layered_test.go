package blk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/virtio/blk"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

// qcow2File is an image of sectors*512 bytes whose first cluster is there; want is
// what the disk holds.
func qcow2File(t testing.TB) (path string, want []byte) {
	t.Helper()
	const cluster = 64 << 10
	be := binary.BigEndian
	b := make([]byte, 4*cluster)
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 16)
	be.PutUint64(b[24:], sectors*512)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], cluster)
	be.PutUint32(b[96:], 4)
	be.PutUint32(b[100:], 104)
	be.PutUint64(b[cluster:], 2*cluster|1<<63)
	be.PutUint64(b[2*cluster:], 3*cluster|1<<63)
	want = make([]byte, sectors*512)
	for i := range cluster {
		want[i] = byte(i / 512)
	}
	copy(b[3*cluster:], want[:cluster])
	path = filepath.Join(t.TempDir(), "disk.qcow2")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, want
}

// all reads the whole disk.
func (k *disk) all() (got []byte) {
	k.t.Helper()
	for at := uint64(0); at < sectors; at += 256 {
		status, in, _ := k.request(typeIn, at, virtiotest.In(256*512))
		if status != ok {
			k.t.Fatalf("read at %d: status %d", at, status)
		}
		got = append(got, in...)
	}
	return got
}

func startDisk(t *testing.T, o blk.Options) *disk {
	t.Helper()
	dev, err := blk.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return &disk{t: t, path: o.Path, dev: dev, d: virtiotest.Start(t, dev, virtiotest.Options{})}
}

// What a guest writes over an image in qcow2 is there when it comes back, and the
// image is as it was.
func TestWritesGoToTheOverlay(t *testing.T) {
	path, want := qcow2File(t)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o := blk.Options{Path: path, Format: blk.FormatQcow2, Overlay: filepath.Join(t.TempDir(), "over"), Queues: 2}
	k := startDisk(t, o)
	if got := k.all(); !bytes.Equal(got, want) {
		t.Error("the disk is not what the image holds")
	}
	for _, sector := range []uint64{1, 127, 1000, sectors - 3} { // over the border of two blocks, too
		p := bytes.Repeat([]byte{byte(sector)}, 3*512)
		if status, _, _ := k.request(typeOut, sector, virtiotest.Out(p)); status != ok {
			t.Fatalf("write: status %d", status)
		}
		copy(want[sector*512:], p)
	}
	zero := make([]byte, 16)
	binary.LittleEndian.PutUint64(zero, 8)
	binary.LittleEndian.PutUint32(zero[8:], 200)
	if status, _, _ := k.request(typeZero, 0, virtiotest.Out(zero)); status != ok {
		t.Errorf("zero: status %d", status)
	}
	clear(want[8*512 : 208*512])
	binary.LittleEndian.PutUint64(zero, 1000)
	if status, _, _ := k.request(typeDiscard, 0, virtiotest.Out(zero)); status != ok {
		t.Errorf("discard: status %d", status)
	}
	if got := k.all(); !bytes.Equal(got, want) {
		t.Error("the disk is not what was written")
	}
	if status, _, _ := k.request(typeFlush, 0); status != ok {
		t.Errorf("flush: status %d", status)
	}
	if _, err := blk.New(o); !errors.Is(err, blk.ErrLocked) {
		t.Errorf("a second user of the overlay: %v", err)
	}
	if _, err := blk.New(blk.Options{Path: path}); !errors.Is(err, blk.ErrLocked) {
		t.Errorf("a writer of the image: %v", err)
	}
	if err := k.dev.Resize(2 * sectors * 512); !errors.Is(err, blk.ErrResize) {
		t.Errorf("resize: %v", err)
	}
	if err := k.d.Link.Core().Close(); err != nil {
		t.Fatal(err)
	}
	if got := startDisk(t, o).all(); !bytes.Equal(got, want) {
		t.Error("what was written is not there any more")
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the image has changed (%v)", err)
	}
}

// A file is what its owner says: by default it is the disk, even when it looks like an
// image of another format, and one that is asked for as qcow2 opens no other file.
func TestFormatsAreNotGuessed(t *testing.T) {
	path, want := qcow2File(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw := startDisk(t, blk.Options{Path: path, ReadOnly: true})
	if status, in, _ := raw.request(typeIn, 0, virtiotest.In(512)); status != ok || !bytes.Equal(in, whole[:512]) {
		t.Error("a raw disk is not its file")
	}
	qcow := startDisk(t, blk.Options{Path: path, Format: blk.FormatQcow2, ReadOnly: true}) // beside it
	if got := qcow.all(); !bytes.Equal(got, want) {
		t.Error("the disk is not what the image holds")
	}
	if status, _, _ := qcow.request(typeOut, 0, virtiotest.Out(make([]byte, 512))); status != ioErr {
		t.Errorf("write: status %d", status)
	}
	based := filepath.Join(t.TempDir(), "based")
	binary.BigEndian.PutUint64(whole[8:], 0x200)
	binary.BigEndian.PutUint32(whole[16:], uint32(copy(whole[0x200:], "/etc/shadow")))
	if err := os.WriteFile(based, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Link(path, link); err != nil {
		t.Fatal(err)
	}
	for says, o := range map[string]blk.Options{
		"based on another file": {Path: based, ReadOnly: true},
		"does not begin as one": {Path: "/etc/passwd", ReadOnly: true},
		"no regular file":       {Path: "/dev/zero", ReadOnly: true},
		"or the image itself":   {Path: path, Overlay: link},
		"overlay=FILE":          {Path: path},
		"and not both":          {Path: path, ReadOnly: true, Overlay: "x"},
		"for raw images":        {Path: path, ReadOnly: true, Cache: blk.CacheNone},
		"is not empty":          {Path: path, Overlay: "/etc/passwd"},
	} {
		o.Format = blk.FormatQcow2
		if _, err := blk.New(o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", o, err, says)
		}
	}
	if _, err := blk.New(blk.Options{Path: path, Overlay: "x"}); err == nil || !strings.Contains(err.Error(), "format=qcow2") {
		t.Errorf("an overlay over a raw disk: %v", err)
	}
}
