package pci

import (
	"fmt"

	"github.com/hvctl/hvctl/internal/state"
)

// FunctionState is a function's configuration space and where its BARs answer,
// which is not what the registers say after a guest wrote nonsense. The owner of
// the function keeps it in its own section.
type FunctionState struct {
	Config []byte     `json:"config"`
	BARs   []BARState `json:"bars"`
}

// BARState is where one BAR answers.
type BARState struct {
	Base   uint64 `json:"base"`
	Mapped bool   `json:"mapped"`
}

// Save returns the state. Preconditions: vCPUs are stopped.
func (f *Function) Save() FunctionState {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := FunctionState{Config: append([]byte(nil), f.cfg[:]...)}
	for _, r := range f.bars {
		s.BARs = append(s.BARs, BARState{r.base, r.mapped})
	}
	return s
}

// Load sets what the guest can write from s and maps the BARs of a function that
// is on a bus; the rest must be what this function has anyway. Hooks are not
// called. Errors wrap ErrState; then nothing changed.
func (f *Function) Load(s FunctionState) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(s.Config) != ConfigSize || len(s.BARs) != len(f.bars) {
		return fmt.Errorf("%w: %s: %d bytes of configuration space, %d BARs", ErrState, f.name, len(s.Config), len(s.BARs))
	}
	for i, b := range s.Config[:firstCap] {
		if b&^f.mask[i] != f.cfg[i]&^f.mask[i] {
			return fmt.Errorf("%w: %s: byte %#x of its header is %#02x, want %#02x", ErrState, f.name, i, b, f.cfg[i])
		}
	}
	for i, b := range s.BARs {
		if err := f.loadBAR(f.bars[i], b); err != nil {
			for _, r := range f.bars[:i] { // a new function decodes nothing
				_ = f.move(r, r.base, false)
			}
			return fmt.Errorf("%w: %s: BAR %d at %#x: %w", ErrState, f.name, f.bars[i].index, b.Base, err)
		}
	}
	for i, b := range s.Config {
		f.cfg[i] = f.cfg[i]&^f.mask[i] | b&f.mask[i]
	}
	return nil
}

func (f *Function) loadBAR(r *region, s BARState) error {
	switch {
	case f.root == nil || r.mapped:
		return fmt.Errorf("function is in use or on no bus")
	case !s.Mapped:
		return nil
	case !f.root.decodes(s.Base, r.Size) || s.Base&(r.Size-1) != 0:
		return fmt.Errorf("outside the windows or misaligned")
	}
	return f.move(r, s.Base, true)
}

// busV1 is the section of a Bus; functions other than the bridge save
// themselves.
type busV1 struct {
	Index  uint32        `json:"config_address"`
	Bridge FunctionState `json:"bridge"`
}

// StateVersion returns 1.
func (b *Bus) StateVersion() uint32 { return 1 }

// SaveState returns the bus's own registers. Preconditions: vCPUs are stopped.
func (b *Bus) SaveState() (any, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return busV1{Index: b.index, Bridge: b.slots[0].Load().Save()}, nil
}

// LoadState sets the registers of a new bus.
func (b *Bus) LoadState(d state.Decoder) error {
	var s busV1
	if err := d.Into(&s); err != nil {
		return err
	}
	if err := b.slots[0].Load().Load(s.Bridge); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.index = s.Index &^ 3
	return nil
}
