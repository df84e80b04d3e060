package result

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Schema is the version of the files that this package writes and reads.
const Schema = 1

// File is a result's name in its directory.
const File = "result.json"

// maxBytes bounds a file that is read.
const maxBytes = 256 << 20

// Result is a whole run.
type Result struct {
	Schema  int               `json:"schema"`
	Kind    string            `json:"kind"` // "run" or "null"
	Started time.Time         `json:"started"`
	TookS   float64           `json:"tookS"`
	Mode    string            `json:"mode"` // hw, nested-hw, pvm, tcg, tcg-icount
	Env     map[string]string `json:"env"`
	Command string            `json:"command"` // that made it
	Seed    uint64            `json:"seed"`
	Partial string            `json:"partial,omitempty"` // why it is not whole
	Plan    Plan              `json:"plan"`
	Image   Image             `json:"image"`
	Samples []Sample          `json:"samples"`
	// The chapters that are no matter of ratios.
	Facts    []Fact    `json:"facts,omitempty"`
	Controls []Control `json:"controls,omitempty"`
	Density  []Crowd   `json:"density,omitempty"`
	Moves    []Move    `json:"moves,omitempty"`
	// Machine is what else the host did meanwhile.
	Machine []Pressure `json:"machine,omitempty"`
}

// Plan is what was asked.
type Plan struct {
	Targets  []string `json:"targets"` // the first is the base
	Copy     string   `json:"copy"`    // the base's second run in each block
	Chapters []string `json:"chapters"`
	Blocks   int      `json:"blocks"` // the warm-up is one more
	Batches  int      `json:"batches"`
	CPUSet   []int    `json:"cpuSet"`
	CPUs     float64  `json:"cpus"`
	MemoryMB int      `json:"memoryMB"`
}

// Image is what ran.
type Image struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
	Probes string `json:"probes,omitempty"` // SHA-256 of hvbench
}

// Sample is one probe, or one stage, in one instance.
type Sample struct {
	Chapter  string    `json:"chapter"`
	Probe    string    `json:"probe"`
	Target   string    `json:"target"`
	Block    int       `json:"block"` // 0 is the warm-up
	Pos      int       `json:"pos"`   // in the block
	Instance string    `json:"instance"`
	Value    float64   `json:"value"`          // ns of one operation, or what Unit says
	Unit     string    `json:"unit,omitempty"` // of Value; empty: Nanoseconds
	BatchNs  []float64 `json:"batchNs,omitempty"`
	Ops      int       `json:"ops,omitempty"` // all that were done while the figures below were counted
	InsideNs int64     `json:"insideNs,omitempty"`
	HostNs   int64     `json:"hostNs,omitempty"` // the same stretch by the host's clock
	CPUNs    uint64    `json:"cpuNs,omitempty"`  // charged to the whole instance
	// Exits are a VM's, by reason.
	Exits  map[string]uint64 `json:"exits,omitempty"`
	Warmup bool              `json:"warmup,omitempty"`
	Error  string            `json:"error,omitempty"`
}

// Instance is the probe of a sample that is an instance that failed as a whole.
const Instance = "instance"

// The units of values. All are costs: more is worse.
const (
	Nanoseconds = ""
	Bytes       = "B"
)

// ErrSchema means a file of another version.
var ErrSchema = errors.New("not a result that this version reads")

// Load reads a file, or the result in a directory.
func Load(path string) (*Result, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		path = filepath.Join(path, File)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() { // a pipe may have no other end, a device no end
		return nil, fmt.Errorf("%s: no regular file: %w", path, ErrSchema)
	}
	if st.Size() > maxBytes {
		return nil, fmt.Errorf("%s: %d bytes, more than %d: %w", path, st.Size(), maxBytes, ErrSchema)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r, err := Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Decode reads a result.
func Decode(b []byte) (*Result, error) {
	var r Result
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, err
	}
	if r.Schema != Schema {
		return nil, fmt.Errorf("schema %d, want %d: %w", r.Schema, Schema, ErrSchema)
	}
	if len(r.Plan.Targets) == 0 || r.Mode == "" {
		return nil, fmt.Errorf("no targets or no execution mode: %w", ErrSchema)
	}
	return &r, nil
}

// Save writes the result into a directory, whole or not at all.
func (r *Result) Save(dir string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, "."+File)
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil { //nolint:gosec // a result for everybody
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, File))
}

// Base is the target that others are compared with.
func (r *Result) Base() string { return r.Plan.Targets[0] }

// Emulated tells whether its times are an emulator's.
func (r *Result) Emulated() bool { return r.Mode == "tcg" || r.Mode == "tcg-icount" }

// Probes are the probes and stages that have samples, in order.
func (r *Result) Probes() (names []Key) {
	for _, s := range r.Samples {
		if k := (Key{s.Chapter, s.Probe}); !slices.Contains(names, k) {
			names = append(names, k)
		}
	}
	return names
}

// Key names a probe.
type Key struct{ Chapter, Probe string }

// Good are the samples of a probe on a target that count.
func (r *Result) Good(k Key, target string) (out []Sample) {
	for _, s := range r.Samples {
		if s.Chapter == k.Chapter && s.Probe == k.Probe && s.Target == target && s.Error == "" && !s.Warmup {
			out = append(out, s)
		}
	}
	return out
}

// Failed are the samples of a target that have an error, warm-up and all.
func (r *Result) Failed(target string) (out []Sample) {
	for _, s := range r.Samples {
		if s.Target == target && s.Error != "" {
			out = append(out, s)
		}
	}
	return out
}
