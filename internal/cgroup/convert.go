package cgroup

import (
	"math"
	"strconv"
)

// WeightFromShares is the cpu.weight (1 to 10000) of v1's cpu.shares (2 to
// 262144). Equal shares become equal weights and the defaults meet, 1024 and
// 100; in between it is the curve that OCI runtimes agreed on, a parabola in
// the logarithms. 0 means nothing was said, and stays 0.
func WeightFromShares(shares uint64) uint64 {
	switch {
	case shares == 0:
		return 0
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// SharesFromWeight is the smallest cpu.shares whose weight is at least that,
// so that --cpu-weight means the same on v1.
func SharesFromWeight(weight uint64) uint64 {
	if weight == 0 {
		return 0
	}
	lo, hi := uint64(2), uint64(262144)
	for lo < hi {
		mid := (lo + hi) / 2
		if WeightFromShares(mid) >= weight {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// ioWeight is the io.weight (1 to 10000) of a blkio weight (10 to 1000).
func ioWeight(blkio uint16) uint64 {
	return 1 + (uint64(blkio)-10)*9999/990
}

// defaultPeriod is cpu.max's period in microseconds when none was given; the
// kernel's own default on both versions.
const defaultPeriod = 100000

// cpuMax is cpu.max's line. A quota of 0 or less is no limit.
func cpuMax(quota *int64, period *uint64) string {
	q, p := "max", uint64(defaultPeriod)
	if quota != nil && *quota > 0 {
		q = strconv.FormatInt(*quota, 10)
	}
	if period != nil && *period > 0 {
		p = *period
	}
	return q + " " + strconv.FormatUint(p, 10)
}

// limitText is a v2 limit: -1 is "max".
func limitText(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// swapMax turns OCI's swap, which is memory and swap together as v1 counts,
// into v2's swap alone. memory is the limit that will be in force: nil when it
// is not known, -1 without one. ok is false when there is nothing to set.
func swapMax(memory, swap *int64) (n int64, ok bool, err error) {
	const field = "linux.resources.memory.swap"
	switch {
	case swap == nil || *swap == 0: // 0 is what a client sends that says nothing
		return 0, false, nil
	case *swap == -1:
		return -1, true, nil
	case *swap < -1:
		return 0, false, valueError(field, "%d is negative; -1 means no limit", *swap)
	case memory == nil || *memory <= 0:
		return 0, false, valueError(field, "%d counts memory and swap together, and needs linux.resources.memory.limit", *swap)
	case *swap < *memory:
		return 0, false, valueError(field, "%d is less than the memory limit %d, which it includes", *swap, *memory)
	}
	return *swap - *memory, true, nil
}
