package metrics

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Value is one counter at one moment.
type Value struct {
	Name  string `json:"name"` // "virtio/2/blk.read_bytes_total"
	Unit  string `json:"unit"` // "bytes", "ns", "1"
	Value uint64 `json:"value"`
}

type counter struct {
	name, unit string
	v          *atomic.Uint64
}

type histogram struct {
	name string
	h    *Histogram
}

// Registry holds the counters of one machine. The zero value is empty and
// ready; all methods may be called concurrently.
type Registry struct {
	mu         sync.Mutex // guards what follows
	counters   []counter
	histograms []histogram
}

// Register adds the counters of the struct that s points to under prefix. Each
// atomic.Uint64 and Histogram field has a tag `metric:"name,unit"`; other fields
// are ignored. It returns an error for anything but a pointer to a struct, for a
// counter without a tag and for a name that is taken; then nothing was added.
func (r *Registry) Register(prefix string, s any) error {
	v := reflect.ValueOf(s)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("metrics of %s: want a pointer to a struct, got %T", prefix, s)
	}
	v = v.Elem()
	var found []counter
	var hists []histogram
	for i := range v.NumField() {
		f := v.Type().Field(i)
		isHist := f.Type == reflect.TypeFor[Histogram]()
		if !isHist && f.Type != reflect.TypeFor[atomic.Uint64]() || !f.IsExported() {
			continue
		}
		name, unit, ok := strings.Cut(f.Tag.Get("metric"), ",")
		if !ok || name == "" || unit == "" {
			return fmt.Errorf("metrics of %s: field %s has no name and unit", prefix, f.Name)
		}
		if isHist {
			hists = append(hists, histogram{prefix + "." + name, v.Field(i).Addr().Interface().(*Histogram)})
			continue
		}
		found = append(found, counter{prefix + "." + name, unit, v.Field(i).Addr().Interface().(*atomic.Uint64)})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range found {
		if slices.ContainsFunc(r.counters, func(o counter) bool { return o.name == c.name }) {
			return fmt.Errorf("metrics: %s is registered twice", c.name)
		}
	}
	r.counters = append(r.counters, found...)
	r.histograms = append(r.histograms, hists...)
	return nil
}

// Unregister removes every counter registered under prefix.
func (r *Registry) Unregister(prefix string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counters = slices.DeleteFunc(r.counters, func(c counter) bool { return strings.HasPrefix(c.name, prefix+".") })
	r.histograms = slices.DeleteFunc(r.histograms, func(h histogram) bool { return strings.HasPrefix(h.name, prefix+".") })
}

// Snapshot returns all counters, sorted by name.
func (r *Registry) Snapshot() []Value {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Value, len(r.counters))
	for i, c := range r.counters {
		out[i] = Value{c.name, c.unit, c.v.Load()}
	}
	slices.SortFunc(out, func(a, b Value) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
