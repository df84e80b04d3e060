package blk_test

import (
	"slices"
	"testing"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio/blk"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

func TestWriteLogKnowsEveryChange(t *testing.T) {
	const perPage = memory.PageSize / 512
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	if k.dev.Size() != sectors*512 || !k.dev.Writable() || k.dev.Image() == nil {
		t.Errorf("size %d, writable %v", k.dev.Size(), k.dev.Writable())
	}
	words := make([]uint64, (k.dev.Size()/memory.PageSize+63)/64)
	fetch := func() []uint64 {
		k.dev.FetchWrites(words)
		return words
	}
	do := func(kind uint32, sector uint64, b []byte) {
		t.Helper()
		if status, _, _ := k.request(kind, sector, virtiotest.Out(b)); status != 0 {
			t.Fatalf("request %d at sector %d: status %d", kind, sector, status)
		}
	}
	do(1, 0, make([]byte, 512))
	words[0] = 7
	if got := fetch(); !slices.Equal(got, make([]uint64, len(words))) {
		t.Errorf("without a log: %x", got)
	}
	k.dev.StartWriteLog()
	do(1, perPage-1, make([]byte, 1024))                                          // the end of page 0, the begin of page 1
	do(11, 0, segment(3*perPage, 1, 0))                                           // DISCARD in page 3
	do(13, 0, segment(5*perPage+2, 2, 0))                                         // WRITE_ZEROES in page 5
	if status, _, _ := k.request(0, 6*perPage, virtiotest.In(512)); status != 0 { // a read changes nothing
		t.Fatal("read")
	}
	if got := fetch(); got[0] != 1|1<<1|1<<3|1<<5 {
		t.Errorf("logged %x", got)
	}
	if got := fetch(); got[0] != 0 {
		t.Errorf("told twice: %x", got)
	}
	do(1, 0, make([]byte, 512))
	k.dev.StopWriteLog()
	if got := fetch(); got[0] != 0 {
		t.Errorf("after the end: %x", got)
	}
}
