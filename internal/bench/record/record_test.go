package record

import (
	"slices"
	"testing"
)

func TestSpreadIsOfWantedSamplesOnly(t *testing.T) {
	good := func(v int64) bool { return v >= 0 }
	same := func(v int64) int64 { return v }
	for _, c := range []struct {
		values []int64
		want   Spread
	}{
		{nil, Spread{}},
		{[]int64{-1}, Spread{}},
		{[]int64{7}, Spread{7, 7, 7, 7, 1}},
		{[]int64{4, -9, 1, 3, 2}, Spread{1, 2, 4, 4, 4}},
	} {
		if got := Of(c.values, good, same); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.values, got, c.want)
		}
	}
	if n := Count([]int64{-1, 2, 3}, good); n != 2 {
		t.Errorf("counted %d", n)
	}
}

func TestDistinctKeepsTheOrder(t *testing.T) {
	if got := Distinct([]string{"b", "", "a", "b"}, func(s string) string { return s }); !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("%q", got)
	}
}
