package run

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// family is a process and all that came of it and still lives. Processes that
// end meanwhile are not in it.
func family(pid int) []int {
	out := []int{pid}
	for i := 0; i < len(out); i++ {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", out[i]))
		if err != nil {
			continue
		}
		for _, t := range tasks {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", out[i], t.Name()))
			if err != nil {
				continue
			}
			for _, f := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(f); err == nil {
					out = append(out, n)
				}
			}
		}
	}
	return out
}

// proportional is the proportional set size of processes, in bytes: what they
// share with others counts by their share.
func proportional(pids []int) (total uint64) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				var kib uint64
				if _, err := fmt.Sscan(rest, &kib); err == nil {
					total += kib << 10
				}
			}
		}
	}
	return total
}
