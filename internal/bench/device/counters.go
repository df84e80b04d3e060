package device

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// exitKinds are KVM's counters that are kept, from its debugfs: they are there
// for every VMM alike.
var exitKinds = []string{"exits", "halt_exits", "io_exits", "mmio_exits", "irq_exits", "signal_exits", "irq_injections", "halt_wakeup"}

// take reads the counters of the one VM on this host, and what the threads of
// process pid have run. (A VM goes by the number of the thread that made it, which may
// have ended.)
func take(pid int) (counters, error) {
	c := counters{exits: map[string]uint64{}}
	dirs, err := filepath.Glob("/sys/kernel/debug/kvm/*-*")
	if err != nil || len(dirs) != 1 {
		return c, fmt.Errorf("%d VMs under /sys/kernel/debug/kvm, want the benchmark's one: is debugfs mounted, and no other VM there?", len(dirs))
	}
	for _, k := range exitKinds {
		b, err := os.ReadFile(filepath.Join(dirs[0], k))
		if os.IsNotExist(err) {
			continue // not every processor has them all
		}
		if err != nil {
			return c, err
		}
		if c.exits[k], err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err != nil {
			return c, err
		}
	}
	c.cpuNs, c.turns, err = ran(pid)
	return c, err
}

// ran is for how long all threads of pid have run, and in how many turns: a thread
// that sleeps and is woken has another one.
func ran(pid int) (ns int64, turns uint64, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, 0, fmt.Errorf("no threads of process %d: %w", pid, os.ErrNotExist)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it ended
		}
		var t, waited int64
		var n uint64
		if _, err := fmt.Sscan(string(b), &t, &waited, &n); err != nil {
			return 0, 0, fmt.Errorf("%s: %w", f, err)
		}
		ns, turns = ns+t, turns+n
	}
	return ns, turns, nil
}
