package boot

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// pssBeyondRAM adds up the proportional set size of a process's mappings, the
// guest's RAM (a memfd whose name contains ram) left out.
func pssBeyondRAM(pid int, ram string) (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var total int64
	guest, found := false, false
	s := bufio.NewScanner(f)
	for s.Scan() {
		line := s.Text()
		key, rest, _ := strings.Cut(line, ":")
		if !strings.Contains(key, " ") { // an attribute; a mapping's line has spaces before its first colon
			if key == "Pss" && !guest {
				var kib int64
				if _, err := fmt.Sscan(rest, &kib); err != nil {
					return 0, fmt.Errorf("smaps of %d: %q: %w", pid, line, err)
				}
				total += kib << 10
			}
			continue
		}
		guest = strings.Contains(line, ram)
		found = found || guest
	}
	if err := s.Err(); err != nil {
		return 0, err
	}
	if !found {
		return 0, fmt.Errorf("process %d has no mapping called %s: is it the VMM?", pid, ram)
	}
	return total, nil
}
