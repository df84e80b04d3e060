package wire

import (
	"bytes"
	"errors"
	"math/bits"
	"reflect"
	"testing"
)

func bitmapsOf(pages []uint64) (b [][]uint64) {
	for _, n := range pages {
		b = append(b, make([]uint64, (n+63)/64))
	}
	return b
}

func TestMissingComesBackAsItWent(t *testing.T) {
	pages := []uint64{70, 64 * 200_000, 1}
	want := bitmapsOf(pages)
	want[0][1] = 1 << 5
	for i := 10; i < 150_000; i++ { // more than one frame has room for
		want[1][i] = ^uint64(i)
	}
	want[2][0] = 1
	got, frames, n := bitmapsOf(pages), 0, uint64(0)
	err := AppendMissing(want, func(p []byte) error {
		frames++
		if len(p) > MaxPayload {
			t.Errorf("a payload of %d bytes", len(p))
		}
		more, err := DecodeMissing(bytes.Clone(p), pages, got)
		n += more
		return err
	})
	if err != nil || !reflect.DeepEqual(got, want) || frames < 4 {
		t.Errorf("%d frames, %v", frames, err)
	}
	all := uint64(0)
	for _, words := range want {
		for _, w := range words {
			all += uint64(bits.OnesCount64(w))
		}
	}
	if n != all {
		t.Errorf("%d pages counted, want %d", n, all)
	}
}

func TestBadMissingAndFetchAreRefused(t *testing.T) {
	pages := []uint64{70}
	le := func(region byte, first byte, words ...byte) []byte {
		return append([]byte{region, 0, first, 0, 0, 0, 0, 0, 0, 0}, words...)
	}
	word := []byte{1, 0, 0, 0, 0, 0, 0, 0}
	for name, p := range map[string][]byte{
		"empty": nil, "no words": le(0, 0), "half a word": le(0, 0, 1), "unknown region": le(1, 0, word...), "beyond the words": le(0, 2, word...),
		"too many words": le(0, 1, append(bytes.Clone(word), word...)...), "beyond the last page": le(0, 1, 0x40, 0, 0, 0, 0, 0, 0, 0),
	} {
		got := bitmapsOf(pages)
		if _, err := DecodeMissing(p, pages, got); !errors.Is(err, ErrCorrupt) || !reflect.DeepEqual(got, bitmapsOf(pages)) {
			t.Errorf("%s: %v, %v", name, err, got)
		}
	}
	for name, p := range map[string][]byte{"empty": nil, "long": append(AppendFetch(nil, 0, 1), 0), "region": AppendFetch(nil, 1, 0), "page": AppendFetch(nil, 0, 70)} {
		if _, _, err := DecodeFetch(p, pages); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is decoded is inside of the regions, whatever the bytes.
func FuzzMissing(f *testing.F) {
	f.Add(AppendFetch(nil, 0, 3), uint16(70))
	f.Add(append(AppendFetch(nil, 1, 0), 1, 0, 0, 0, 0, 0, 0, 0x80), uint16(64))
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		pages := []uint64{uint64(size), 64}
		m := bitmapsOf(pages)
		n, err := DecodeMissing(b, pages, m)
		got := uint64(0)
		for i, words := range m {
			for w, v := range words {
				got += uint64(bits.OnesCount64(v))
				if v != 0 && uint64(w*64+63-bits.LeadingZeros64(v)) >= pages[i] {
					t.Errorf("a page of region %d beyond %d", i, pages[i])
				}
			}
		}
		if got != n || err != nil && n != 0 {
			t.Errorf("%d pages, %d said, %v", got, n, err)
		}
		if r, p, err := DecodeFetch(b, pages); err == nil && p >= pages[r] {
			t.Errorf("page %d of region %d", p, r)
		}
	})
}
