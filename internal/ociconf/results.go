package ociconf

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
)

// Ours is the name of our runtime in Results.
const Ours = "hvctl-oci"

// Results is what one machine told, kept as JSON in docs/results.
type Results struct {
	Mode   string `json:"mode"`   // see the function Mode
	Kernel string `json:"kernel"` // "Linux 6.1.0"
	Suite  string `json:"suite"`  // the version of runtime-tools
	// Runtimes are in the order of the table.
	Runtimes []Runtime `json:"runtimes"`
}

// Runtime is one runtime's column.
type Runtime struct {
	Name     string             `json:"name"`
	Version  string             `json:"version"`
	View     View               `json:"view"`
	Programs map[string]Outcome `json:"programs"`
}

// Load reads a file that Save wrote.
func Load(path string) (*Results, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var r Results
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &r, nil
}

// Save writes r to path.
func (r *Results) Save(path string) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// Of returns the column of a runtime, or nil.
func (r *Results) Of(name string) *Runtime {
	i := slices.IndexFunc(r.Runtimes, func(rt Runtime) bool { return rt.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Runtimes[i]
}

// Passed counts the programs that a runtime passes.
func (rt *Runtime) Passed() int {
	n := 0
	for _, o := range rt.Programs {
		if o.Passed {
			n++
		}
	}
	return n
}

// Regressions returns the programs that passed in want and do not in got,
// sorted, each with what it says.
func Regressions(want, got map[string]Outcome) []string {
	var lost []string
	for program, w := range want {
		g, ran := got[program]
		switch {
		case !w.Passed || g.Passed:
		case !ran:
			lost = append(lost, program+": did not run")
		default:
			lost = append(lost, fmt.Sprintf("%s: %d of %d tests, %q", program, g.OK, g.Total, g.Failed))
		}
	}
	slices.Sort(lost)
	return lost
}
