package qcow2_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Kinds of cluster that a written image has.
const (
	absent = iota
	stored
	zeroed
	packed
)

// written is an image that a test makes, and what a disk of it holds.
type written struct {
	bits  uint32
	zstd  bool
	image []byte
	disk  []byte
}

// write makes an image of version 3 with one cluster of each kind given, in turn; the
// disk ends 512 bytes into the last.
func write(t testing.TB, bits uint32, zst bool, kinds ...int) *written {
	t.Helper()
	w := &written{bits: bits, zstd: zst}
	cluster := 1 << bits
	be := binary.BigEndian
	perL2 := cluster / 8
	tables := (len(kinds) + perL2 - 1) / perL2
	l1 := (tables*8 + cluster - 1) / cluster
	w.image = make([]byte, (1+l1+tables)*cluster)
	h := w.image
	copy(h, "QFI\xfb")
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], bits)
	be.PutUint32(h[36:], uint32(tables))
	be.PutUint64(h[40:], uint64(cluster))
	be.PutUint32(h[96:], 4)
	be.PutUint32(h[100:], 112)
	if zst {
		be.PutUint64(h[72:], 1<<3)
		h[104] = 1
	}
	for i := range tables {
		be.PutUint64(w.image[cluster+8*i:], uint64((1+l1+i)*cluster)|1<<63)
	}
	for i, kind := range kinds {
		content := make([]byte, cluster)
		entry := uint64(0)
		at := len(w.image)
		switch kind {
		case stored:
			for j := range content {
				content[j] = byte(i + j*7)
			}
			w.image = append(w.image, content...)
			entry = uint64(at) | 1<<63
		case zeroed:
			entry = 1
		case packed:
			for j := range content {
				content[j] = byte(i + j/64)
			}
			p := w.pack(t, content)
			entry = 1<<62 | uint64((len(p)+511)/512)<<(62-(bits-8)) | uint64(at)
			w.image = append(w.image, p...)
			w.image = append(w.image, make([]byte, (cluster-len(w.image)%cluster)%cluster)...)
		}
		be.PutUint64(w.image[(1+l1)*cluster+8*i:], entry)
		w.disk = append(w.disk, content...)
	}
	w.disk = w.disk[:len(w.disk)-cluster+512]
	be.PutUint64(w.image[24:], uint64(len(w.disk)))
	return w
}

func (w *written) pack(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if w.zstd {
		e, err := zstd.NewWriter(&out)
		must(t, err)
		_, err = e.Write(b)
		must(t, err)
		must(t, e.Close())
		return out.Bytes()
	}
	e, err := flate.NewWriter(&out, flate.BestCompression)
	must(t, err)
	_, err = e.Write(b)
	must(t, err)
	must(t, e.Close())
	return out.Bytes()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
