// Package probe is what the benchmarks on the host and the probe in the guest
// (cmd/hvprobe) agree on. A leaf.
package probe

import (
	"slices"
	"strings"
)

// TestsKey is the word of the kernel's command line that names the tests to
// run, with commas between; it comes to the probe in its environment.
const TestsKey = "hvprobe_tests"

// Test is one way of using the disk.
type Test struct {
	Name   string
	Size   int // bytes of a request
	Depth  int // requests in flight
	Ops    int
	Random bool
	Write  bool
	Sync   bool // each write is followed by fdatasync, and both are one operation
}

// Tests are what the probe does, in this order.
var Tests = []Test{
	{Name: "rand-read-4k-qd1", Size: 4 << 10, Depth: 1, Ops: 1000, Random: true},
	{Name: "rand-read-4k-qd32", Size: 4 << 10, Depth: 32, Ops: 4000, Random: true},
	{Name: "rand-write-4k-qd1", Size: 4 << 10, Depth: 1, Ops: 1000, Random: true, Write: true},
	{Name: "rand-write-4k-qd32", Size: 4 << 10, Depth: 32, Ops: 4000, Random: true, Write: true},
	{Name: "seq-read-1m", Size: 1 << 20, Depth: 4, Ops: 128},
	{Name: "seq-write-1m", Size: 1 << 20, Depth: 4, Ops: 128, Write: true},
	{Name: "fsync", Size: 4 << 10, Depth: 1, Ops: 500, Random: true, Write: true, Sync: true},
}

// Figures are what the probe says of a test.
type Figures struct {
	Test  string `json:"test"`
	Ops   int    `json:"ops"`
	Bytes int    `json:"bytes"` // of one operation
	Ns    int64  `json:"ns"`    // for all, by the guest's clock
}

// Chosen returns those of tests that list names, all for an empty list.
func Chosen[T interface{ String() string }](tests []T, list string) []T {
	if list == "" {
		return tests
	}
	names := strings.Split(list, ",")
	return slices.DeleteFunc(slices.Clone(tests), func(t T) bool { return !slices.Contains(names, t.String()) })
}

// String is the test's name.
func (t Test) String() string { return t.Name }
