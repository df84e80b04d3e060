package run

import (
	"testing"
	"time"
)

func TestPressureIsAShareOfTheTime(t *testing.T) {
	at := time.Now()
	p := pressure{at: at, stealNs: 5, cpu: 1000, memory: -1, io: 7}
	q := pressure{at: at.Add(10 * time.Millisecond), stealNs: 12, cpu: 6000, memory: -1, io: 7}
	r := p.until(q, "probes", 2)
	if r.CPU != 0.5 || r.Memory != -1 || r.IO != 0 || r.StealNs != 7 || r.TookNs != 1e7 || r.Chapter != "probes" || r.Block != 2 {
		t.Errorf("%+v", r)
	}
}
