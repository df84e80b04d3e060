package blk_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/blk"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

const (
	typeIn, typeOut, typeFlush, typeGetID, typeDiscard, typeZero = 0, 1, 4, 8, 11, 13

	ok, ioErr, unsupported = 0, 1, 2

	sectors = 2048 // of the test disks
)

const (
	featureReadOnly virtio.Features = 1 << 5
	featureFlush    virtio.Features = 1 << 9
)

// disk is a device on a file with random contents.
type disk struct {
	t    testing.TB
	path string
	dev  *blk.Device
	d    *virtiotest.Driver
	want []byte // what the file should hold
}

func imageFile(t testing.TB, size int) (path string, data []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk.raw")
	data = make([]byte, size)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(data)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, data
}

func newDisk(t testing.TB, o blk.Options, vo virtiotest.Options) *disk {
	t.Helper()
	path, data := imageFile(t, sectors*512)
	o.Path = path
	o.Cache, o.Engine, o.Queues = cmp.Or(o.Cache, defaults.Cache), cmp.Or(o.Engine, defaults.Engine), cmp.Or(o.Queues, defaults.Queues)
	dev, err := blk.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return &disk{t: t, path: path, dev: dev, d: virtiotest.Start(t, dev, vo), want: data}
}

func header(kind uint32, sector uint64) []byte {
	b := make([]byte, 16)
	binary.LittleEndian.PutUint32(b, kind)
	binary.LittleEndian.PutUint64(b[8:], sector)
	return b
}

// request does one request; in is the writable part without the status.
func (k *disk) request(kind uint32, sector uint64, bufs ...virtiotest.Buf) (status byte, in []byte, written uint32) {
	k.t.Helper()
	bufs = append([]virtiotest.Buf{virtiotest.Out(header(kind, sector))}, bufs...)
	u := k.d.Queue(0).Do(append(bufs, virtiotest.In(1))...)
	return u.In[len(u.In)-1], u.In[:len(u.In)-1], u.Written
}

// check compares the file with what it should hold.
func (k *disk) check() {
	k.t.Helper()
	got, err := os.ReadFile(k.path)
	if err != nil {
		k.t.Fatal(err)
	}
	if !bytes.Equal(got, k.want) {
		k.t.Fatalf("the image has %d bytes, want %d, or they differ", len(got), len(k.want))
	}
}

func (k *disk) metrics() *blk.Metrics { return k.dev.Metrics().(*blk.Metrics) }

func segment(sector uint64, sectors, flags uint32) []byte {
	b := make([]byte, 16)
	binary.LittleEndian.PutUint64(b, sector)
	binary.LittleEndian.PutUint32(b[8:], sectors)
	binary.LittleEndian.PutUint32(b[12:], flags)
	return b
}
