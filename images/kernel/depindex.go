package kernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

const (
	depFile     = "modules.dep"
	builtinFile = "modules.builtin"
	builtinInfo = "modules.builtin.modinfo"
	softdepFile = "modules.softdep"
	aliasFile   = "modules.alias"

	maxModules   = 50_000
	maxIndexFile = 64 << 20
)

// ensureIndex writes modules.dep, modules.softdep and modules.alias when they
// are missing. Distributions make them when a package is installed, by depmod;
// an unpacked package does not have them. The module files themselves say all
// that is needed.
func ensureIndex(ctx context.Context, dir string) error {
	if _, err := os.Stat(filepath.Join(dir, depFile)); err == nil {
		return nil
	}
	type mod struct {
		path, depends string
		soft, aliases []string
	}
	mods := map[string]mod{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, ok := moduleName(path)
		if !ok {
			return nil
		}
		if len(mods) >= maxModules {
			return fmt.Errorf("%w: more than %d modules", ErrBadModules, maxModules)
		}
		b, err := readModule(path)
		if err != nil {
			return err
		}
		info, err := modinfo(b)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		m := mod{path: rel}
		for _, kv := range info {
			k, v, _ := strings.Cut(kv, "=")
			if strings.ContainsAny(v, "\n\r") {
				continue
			}
			switch k {
			case "depends":
				m.depends = v
			case "softdep":
				m.soft = append(m.soft, v)
			case "alias":
				m.aliases = append(m.aliases, v)
			}
		}
		mods[name] = m
		return nil
	})
	if err != nil {
		return err
	}
	names := make([]string, 0, len(mods))
	for n := range mods {
		names = append(names, n)
	}
	sort.Strings(names)
	var deps, soft, aliases strings.Builder
	for _, n := range names {
		m := mods[n]
		fmt.Fprintf(&deps, "%s:", m.path)
		need := strings.Split(m.depends, ",")
		slices.Reverse(need) // the last to load first, as depmod does
		for _, d := range need {
			if dm, ok := mods[plainName(d)]; ok {
				fmt.Fprintf(&deps, " %s", dm.path)
			}
		}
		deps.WriteByte('\n')
		for _, v := range m.soft {
			fmt.Fprintf(&soft, "softdep %s %s\n", n, v)
		}
		for _, v := range m.aliases {
			fmt.Fprintf(&aliases, "alias %s %s\n", v, n)
		}
	}
	// modules.dep last: it is what says that the index is there.
	return errors.Join(
		os.WriteFile(filepath.Join(dir, softdepFile), []byte(soft.String()), 0o644),
		os.WriteFile(filepath.Join(dir, aliasFile), []byte(aliases.String()), 0o644),
		os.WriteFile(filepath.Join(dir, depFile), []byte(deps.String()), 0o644),
	)
}

// index is what a module tree says about its modules.
type index struct {
	path    map[string]string   // name to file, relative to the tree
	deps    map[string][]string // names that must be loaded before
	soft    map[string][]string // names or aliases that should be
	builtin map[string]bool     // names and aliases in the kernel itself
	alias   map[string][]string // exact aliases only
}

func readIndex(dir string) (*index, error) {
	x := &index{map[string]string{}, map[string][]string{}, map[string][]string{}, map[string]bool{}, map[string][]string{}}
	for _, f := range []struct {
		name  string
		need  bool
		parse func(string) error
	}{
		{depFile, true, x.parseDep},
		{builtinFile, false, x.parseBuiltin},
		{builtinInfo, false, x.parseBuiltinInfo},
		{softdepFile, false, x.parseSoftdep},
		{aliasFile, false, x.parseAlias},
	} {
		path := filepath.Join(dir, f.name)
		st, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) && !f.need {
			continue
		}
		if err == nil && st.Size() > maxIndexFile {
			err = fmt.Errorf("larger than %d bytes", maxIndexFile)
		}
		var b []byte
		if err == nil {
			b, err = os.ReadFile(path)
		}
		if err == nil {
			err = f.parse(string(b))
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrBadModules, path, err)
		}
	}
	return x, nil
}

// parseDep reads lines of "path: path path ...".
func (x *index) parseDep(s string) error {
	sc := bufio.NewScanner(strings.NewReader(s))
	sc.Buffer(nil, 1<<20)
	for line := 1; sc.Scan(); line++ {
		if strings.TrimSpace(sc.Text()) == "" {
			continue
		}
		path, rest, ok := strings.Cut(sc.Text(), ":")
		name, isModule := moduleName(path)
		if !ok || !isModule || !filepath.IsLocal(path) {
			return fmt.Errorf("line %d: want \"PATH.ko: PATH.ko ...\" with paths inside the directory", line)
		}
		x.path[name] = path
		var deps []string
		for d := range strings.FieldsSeq(rest) {
			n, isModule := moduleName(d)
			if !isModule {
				return fmt.Errorf("line %d: %.100q is not a module", line, d)
			}
			deps = append(deps, n)
		}
		// depmod lists the last to load first.
		slices.Reverse(deps)
		x.deps[name] = deps
	}
	return sc.Err()
}

func (x *index) parseBuiltin(s string) error {
	for path := range strings.FieldsSeq(s) {
		if n, ok := moduleName(path); ok {
			x.builtin[n] = true
		}
	}
	return nil
}

// parseBuiltinInfo reads "name.key=value" strings for the aliases of what is
// built in, which is how a soft dependency names it.
func (x *index) parseBuiltinInfo(s string) error {
	for kv := range strings.SplitSeq(s, "\x00") {
		key, value, _ := strings.Cut(kv, "=")
		if strings.HasSuffix(key, ".alias") {
			x.builtin[plainName(value)] = true
		}
	}
	return nil
}

// parseSoftdep reads lines of "softdep NAME [pre:] A B post: C".
func (x *index) parseSoftdep(s string) error {
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "softdep" {
			continue
		}
		name, pre := plainName(f[1]), true
		for _, w := range f[2:] {
			switch w {
			case "pre:":
				pre = true
			case "post:":
				pre = false
			default:
				if pre {
					x.soft[name] = append(x.soft[name], plainName(w))
				}
			}
		}
	}
	return nil
}

// parseAlias keeps the aliases without wildcards.
func (x *index) parseAlias(s string) error {
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" || strings.ContainsAny(f[1], "*?[") {
			continue
		}
		a := plainName(f[1])
		x.alias[a] = append(x.alias[a], plainName(f[2]))
	}
	return nil
}
