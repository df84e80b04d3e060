package workload

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseDeadline(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		in   string
		want Deadline
		err  string
	}{
		{in: "5ms,10ms,20ms", want: Deadline{5 * ms, 10 * ms, 20 * ms}},
		{in: "5ms,20ms", want: Deadline{5 * ms, 20 * ms, 20 * ms}},
		{in: "20ms,20ms,20ms", want: Deadline{20 * ms, 20 * ms, 20 * ms}},
		{in: "5ms", err: "want RUNTIME,DEADLINE,PERIOD"},
		{in: "5,10,20", err: "no time such as 5ms"},
		{in: "10ms,5ms,20ms", err: "want RUNTIME <= DEADLINE <= PERIOD"},
		{in: "5ms,30ms,20ms", err: "want RUNTIME <= DEADLINE <= PERIOD"},
		{in: "0s,1ms,1ms", err: "want RUNTIME <="},
		{in: "-1ms,1ms,1ms", err: "want RUNTIME <="},
		{in: "5us,10us,20us", err: "a period of 100µs"},
		{in: "1s,5s,5s", err: "a period of"},
	} {
		d, err := ParseDeadline(c.in)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %+v, %v; want %q", c.in, d, err, c.err)
			}
			continue
		}
		if err != nil || *d != c.want {
			t.Errorf("%s: %+v, %v", c.in, d, err)
		}
	}
	d := Deadline{5 * ms, 10 * ms, 20 * ms}
	if err := d.Explain(unix.EBUSY); !strings.Contains(err.Error(), "25 % of a processor") {
		t.Error(err)
	}
}
