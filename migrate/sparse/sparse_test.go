package sparse_test

import (
	"os"
	"slices"
	"testing"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/sparse"
)

func TestDataFindsWrittenPagesOnly(t *testing.T) {
	g, err := memory.New(memory.Options{Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Close() }()
	for _, p := range []int{3, 4, 64, 255} {
		g.Regions()[0].Bytes[p*memory.PageSize+9] = 1
	}
	for _, tc := range []struct {
		name      string
		off, size uint64 // pages
		want      []uint64
	}{
		{"all", 0, 256, []uint64{3 << 3, 1, 0, 1 << 63}},
		{"from inside a run", 4, 8, []uint64{1}},
		{"to inside a run", 0, 4, []uint64{1 << 3}},
		{"nothing there", 5, 59, []uint64{0}},
		{"the end", 192, 64, []uint64{1 << 63}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := sparse.Data(g.FD(), tc.off*memory.PageSize, tc.size*memory.PageSize)
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("%x, %v; want %x", got, err, tc.want)
			}
		})
	}
}

func TestDataSaysWhatItCannotAsk(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	if _, err := sparse.Data(int(r.Fd()), 0, memory.PageSize); err == nil {
		t.Error("a pipe has holes?")
	}
}

func TestFillAndIsZero(t *testing.T) {
	if got := sparse.Fill(70); !slices.Equal(got, []uint64{^uint64(0), 1<<6 - 1}) {
		t.Errorf("%x", got)
	}
	p := make([]byte, memory.PageSize)
	if !sparse.IsZero(p) {
		t.Error("zeroes are not zero")
	}
	if p[memory.PageSize-1] = 1; sparse.IsZero(p) {
		t.Error("the last byte was not looked at")
	}
}
