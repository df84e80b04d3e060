package cgroup

import "testing"

func TestWeightFromShares(t *testing.T) {
	for shares, want := range map[uint64]uint64{
		0: 0, 1: 1, 2: 1, 3: 2, 4: 2, 512: 59, 1024: 100, 2048: 174, 4096: 303, 32768: 1681, 262144: 10000, 1 << 40: 10000,
	} {
		if got := WeightFromShares(shares); got != want {
			t.Errorf("%d shares: weight %d, want %d", shares, got, want)
		}
	}
	last := uint64(0)
	for s := uint64(1); s <= 262144; s++ {
		w := WeightFromShares(s)
		if w < last || w < 1 || w > 10000 {
			t.Fatalf("%d shares: weight %d after %d", s, w, last)
		}
		last = w
	}
}

// --cpu-weight is a weight on every host: there and back again.
func TestEveryWeightHasShares(t *testing.T) {
	for w := uint64(0); w <= 10000; w++ {
		s := SharesFromWeight(w)
		if got := WeightFromShares(s); got != w {
			t.Errorf("weight %d becomes %d shares, which are weight %d", w, s, got)
		}
	}
}

func TestIOWeight(t *testing.T) {
	for blkio, want := range map[uint16]uint64{10: 1, 100: 910, 500: 4950, 1000: 10000} {
		if got := ioWeight(blkio); got != want {
			t.Errorf("%d: %d, want %d", blkio, got, want)
		}
	}
}

func TestCPUMax(t *testing.T) {
	for _, tc := range []struct {
		quota  *int64
		period *uint64
		want   string
	}{
		{nil, nil, "max 100000"},
		{new(int64(-1)), nil, "max 100000"},
		{new(int64(0)), new(uint64(50000)), "max 50000"},
		{new(int64(25000)), nil, "25000 100000"},
		{new(int64(25000)), new(uint64(0)), "25000 100000"},
		{new(int64(25000)), new(uint64(20000)), "25000 20000"},
	} {
		if got := cpuMax(tc.quota, tc.period); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestSwapMax(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	for _, tc := range []struct {
		name         string
		memory, swap *int64
		want         int64
		set, fails   bool
	}{
		{"nothing said", n(100), nil, 0, false, false},
		{"zero says nothing", n(100), n(0), 0, false, false},
		{"no limit", n(100), n(-1), -1, true, false},
		{"no limit, of nothing", nil, n(-1), -1, true, false},
		{"equal: none at all", n(100), n(100), 0, true, false},
		{"some", n(100), n(150), 50, true, false},
		{"less than memory", n(100), n(50), 0, false, true},
		{"without memory", nil, n(50), 0, false, true},
		{"memory without limit", n(-1), n(50), 0, false, true},
		{"negative", n(100), n(-7), 0, false, true},
	} {
		got, set, err := swapMax(tc.memory, tc.swap)
		if got != tc.want || set != tc.set || (err != nil) != tc.fails {
			t.Errorf("%s: %d, %v, %v", tc.name, got, set, err)
		}
	}
}
