package device

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// counters are what is taken at both ends of a test.
type counters struct {
	exits map[string]uint64
	cpuNs int64
	turns uint64
}

// follow reads the probe's marks from a guest's console, calls take at each and
// returns a sample for each of so many tests. It ends with the console.
func follow(console io.Reader, tests int, take func() (counters, error)) ([]Sample, error) {
	var samples []Sample
	var before, after counters
	var tail []string // for the message when the guest says nothing of use
	lines := bufio.NewScanner(console)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		var err error
		switch {
		case strings.HasPrefix(line, "+"):
			before, err = take()
		case line == ".":
			after, err = take()
		case strings.HasPrefix(line, "{"):
			s := Sample{Exits: map[string]uint64{}, CPUNs: after.cpuNs - before.cpuNs, Turns: after.turns - before.turns}
			for k, n := range after.exits {
				s.Exits[k] = n - before.exits[k]
			}
			if err = json.Unmarshal([]byte(line), &s.Figures); err == nil {
				samples = append(samples, s)
			}
		case strings.HasPrefix(line, "-"):
			err = errors.New(line[1:])
		case line != "":
			tail = append(tail[max(0, len(tail)-8):], line)
		}
		if err != nil {
			return samples, fmt.Errorf("probe: %w", err)
		}
	}
	if len(samples) < tests {
		return samples, errors.Join(lines.Err(), fmt.Errorf("the guest ended after %d of %d tests; the console's end:\n%s",
			len(samples), tests, strings.Join(tail, "\n")))
	}
	return samples, nil
}
