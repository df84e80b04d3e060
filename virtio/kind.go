package virtio

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Kind is a device type that can be asked for by name.
type Kind struct {
	Name    string   // "blk", as in --device blk,path=...
	Help    string   // one line
	Options []Option // what Args.Values may hold; anything else is refused
	New     func(Args) (Device, error)
}

// Option describes one key of Args.Values.
type Option struct {
	Key  string
	Help string
}

// Args is what one instance of a Kind is made from.
type Args struct {
	ID     string              // instance, for messages: "disk0"
	Values map[string]string   // options
	Files  map[string]*os.File // open files by option key, for devices that take one; owned by the device after New succeeded
	Log    *slog.Logger        // nil discards
}

// Logger returns a.Log, or a logger that discards when it is nil.
func (a Args) Logger() *slog.Logger {
	if a.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return a.Log
}

// String returns the option key, or def when it is not given.
func (a Args) String(key, def string) string {
	if v, ok := a.Values[key]; ok {
		return v
	}
	return def
}

// Bool returns the option key, or def when it is not given. Errors wrap
// ErrArgs.
func (a Args) Bool(key string, def bool) (bool, error) {
	switch v, ok := a.Values[key]; {
	case !ok:
		return def, nil
	case v == "" || v == "on" || v == "true" || v == "yes" || v == "1":
		return true, nil
	case v == "off" || v == "false" || v == "no" || v == "0":
		return false, nil
	default:
		return false, fmt.Errorf("%w: %s: %s=%q is not on or off", ErrArgs, a.ID, key, v)
	}
}

// Uint returns the option key, or def when it is not given. Values outside
// low..high are refused. Errors wrap ErrArgs.
func (a Args) Uint(key string, def, low, high uint64) (uint64, error) {
	v, ok := a.Values[key]
	if !ok {
		return def, nil
	}
	n, err := strconv.ParseUint(v, 0, 64)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("%w: %s: %s=%q is not a number from %d to %d", ErrArgs, a.ID, key, v, low, high)
	}
	return n, nil
}

// Registry is a fixed set of kinds.
type Registry struct{ kinds []Kind }

// NewRegistry returns the set of the given kinds, in that order. It panics on a
// kind without name or New and on a name given twice: both are bugs in the
// list.
func NewRegistry(kinds ...Kind) *Registry {
	r := &Registry{}
	for _, k := range kinds {
		if _, ok := r.Lookup(k.Name); ok || k.Name == "" || k.New == nil {
			panic(fmt.Sprintf("virtio: kind %q is incomplete or listed twice", k.Name))
		}
		r.kinds = append(r.kinds, k)
	}
	return r
}

// Kinds returns all kinds in list order.
func (r *Registry) Kinds() []Kind { return slices.Clone(r.kinds) }

// Lookup returns the kind called name.
func (r *Registry) Lookup(name string) (Kind, bool) {
	i := slices.IndexFunc(r.kinds, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return r.kinds[i], true
}

// New makes a device of the named kind. An unknown name or option is an error
// wrapping ErrArgs that lists what there is.
func (r *Registry) New(name string, a Args) (Device, error) {
	k, ok := r.Lookup(name)
	if !ok {
		var names []string
		for _, k := range r.kinds {
			names = append(names, k.Name)
		}
		return nil, fmt.Errorf("%w: no device %q; there are %s", ErrArgs, name, strings.Join(names, ", "))
	}
	var keys []string
	for _, o := range k.Options {
		keys = append(keys, o.Key)
	}
	for key := range a.Values {
		if !slices.Contains(keys, key) {
			return nil, fmt.Errorf("%w: %s has no option %q; there are: %s", ErrArgs, name, key, strings.Join(keys, ", "))
		}
	}
	d, err := k.New(a)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", name, a.ID, err)
	}
	return d, nil
}
