package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Module is one module file to load.
type Module struct {
	Name string
	// Path is the file; its suffix (.ko, .ko.xz, .ko.zst, .ko.gz) tells how
	// it is compressed.
	Path string
	// Soft marks a module that another one only recommends: that it does not
	// load, say because the processor lacks something, is no error.
	Soft bool
}

// UnknownModulesError lists modules that a kernel does not have. It wraps
// ErrUnknownModule.
type UnknownModulesError struct {
	Kernel string
	Names  []string
}

func (e *UnknownModulesError) Error() string {
	return fmt.Sprintf("%v: kernel %s has no %s, neither as a module nor built in", ErrUnknownModule, e.Kernel, strings.Join(e.Names, ", "))
}

func (e *UnknownModulesError) Unwrap() error { return ErrUnknownModule }

// Modules returns the files to load, in order, to have the named modules in a
// guest with kernel k. What is built in is left out. Names that the kernel does
// not know are listed in an *UnknownModulesError, which comes beside the rest: a
// caller that can do without goes on. A kernel without modules is taken to have
// everything built in.
func Modules(k *Kernel, names []string) ([]Module, error) {
	if k.ModulesDir == "" {
		return nil, nil
	}
	x, err := readIndex(k.ModulesDir)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", k.label(), err)
	}
	r := resolver{x: x, dir: k.ModulesDir, state: map[string]visit{}}
	var unknown []string
	for _, n := range names {
		n := plainName(n)
		if x.builtin[n] {
			continue
		}
		if _, ok := x.path[n]; !ok {
			unknown = append(unknown, n)
			continue
		}
		if err := r.add(n, false); err != nil {
			return nil, fmt.Errorf("kernel %s: %w", k.label(), err)
		}
	}
	if len(unknown) > 0 {
		return r.out, &UnknownModulesError{k.label(), unknown}
	}
	return r.out, nil
}

func (k *Kernel) label() string {
	if k.Name != "" {
		return k.Name
	}
	return k.Path
}

type visit int

const (
	visiting visit = iota + 1
	visited
)

type resolver struct {
	x     *index
	dir   string
	state map[string]visit
	out   []Module
}

// add appends what a module needs, then the module. soft says whether only soft
// dependencies have led here.
func (r *resolver) add(name string, soft bool) error {
	switch r.state[name] {
	case visited:
		if !soft {
			r.harden(name)
		}
		return nil
	case visiting:
		if soft {
			return nil // a recommendation that goes round in a circle
		}
		return fmt.Errorf("%w: %s depends on itself", ErrBadModules, name)
	}
	path, ok := r.x.path[name]
	if !ok {
		return fmt.Errorf("%w: %s is needed by another module and missing from %s", ErrBadModules, name, depFile)
	}
	r.state[name] = visiting
	for _, d := range r.x.soft[name] {
		if n := r.softTarget(d); n != "" {
			if err := r.add(n, true); err != nil {
				return err
			}
		}
	}
	for _, d := range r.x.deps[name] {
		if r.x.builtin[d] {
			continue
		}
		if err := r.add(d, soft); err != nil {
			return err
		}
	}
	r.state[name] = visited
	full := filepath.Join(r.dir, path)
	if st, err := os.Stat(full); err != nil || !st.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is listed in %s but is not there", ErrBadModules, full, depFile)
	}
	r.out = append(r.out, Module{Name: name, Path: full, Soft: soft})
	return nil
}

// harden marks a module that came in softly as needed after all.
func (r *resolver) harden(name string) {
	for i := range r.out {
		if r.out[i].Name == name && r.out[i].Soft {
			r.out[i].Soft = false
			for _, d := range r.x.deps[name] {
				r.harden(d)
			}
		}
	}
}

// softTarget finds the module that a soft dependency means: a name or an alias.
// It is empty when the kernel has it built in or not at all, and for a module
// that is being added already: recommendations may go round in circles.
func (r *resolver) softTarget(want string) string {
	if r.x.builtin[want] {
		return ""
	}
	found := ""
	if _, ok := r.x.path[want]; ok {
		found = want
	} else {
		for _, n := range r.x.alias[want] {
			if _, ok := r.x.path[n]; ok && (found == "" || strings.HasSuffix(n, "_generic")) {
				found = n
			}
		}
	}
	if found != "" && r.state[found] == visiting {
		return ""
	}
	return found
}
