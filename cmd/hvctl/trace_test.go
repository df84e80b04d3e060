package main

import (
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
)

func TestExitsAreReadable(t *testing.T) {
	at := time.Date(2026, 1, 1, 12, 0, 0, 1000, time.Local)
	for _, c := range []struct {
		e    workload.TraceExit
		want string
	}{
		{workload.TraceExit{Time: at, Reason: "io", Addr: 0x3f8, Size: 1, Count: 1, Write: true, Value: 0x41, Device: "com1"},
			"12:00:00.000001 vcpu0 io write 0x3f8 <- 0x41  com1"},
		{workload.TraceExit{Time: at, VCPU: 2, Reason: "mmio", Addr: 0xc0000060, Size: 4, Count: 1, Device: "root\x1b"},
			"12:00:00.000001 vcpu2 mmio read  0xc0000060 (4 bytes)  root?"},
		{workload.TraceExit{Time: at, Reason: "io", Addr: 0x80, Size: 2, Count: 7}, "12:00:00.000001 vcpu0 io read  0x80 (2 bytes) x 7  nobody's"},
		{workload.TraceExit{Time: at, Reason: "intr"}, "12:00:00.000001 vcpu0 intr"},
	} {
		if got := exitText(c.e); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if got := exitText(workload.TraceExit{Dropped: 3, Reason: "intr"}); !strings.HasPrefix(got, "(3 exits left out)\n") {
		t.Errorf("%q", got)
	}
}

func TestRangesOfATrace(t *testing.T) {
	if r, err := rangeOf("port", "0x3f8-1023"); err != nil || *r != (workload.Range{First: 0x3f8, Last: 0x3ff}) {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := rangeOf("port", "96"); err != nil || *r != (workload.Range{First: 96, Last: 96}) {
		t.Errorf("%v, %v", r, err)
	}
	for _, s := range []string{"x", "1-", "-1", "1-2-3"} {
		if _, err := rangeOf("port", s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}
