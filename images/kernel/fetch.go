package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// Flavour is one of Debian's kernels for x86-64.
type Flavour string

// The flavours that Fetch knows.
const (
	Cloud   Flavour = "cloud"   // for virtual machines: fewer drivers, smaller
	Generic Flavour = "generic" // for any machine
)

// packages names the package that always depends on the newest kernel.
var packages = map[Flavour]string{
	Cloud:   "linux-image-cloud-amd64",
	Generic: "linux-image-amd64",
}

// FetchOptions say which kernel to fetch.
type FetchOptions struct {
	Flavour Flavour // empty is Cloud
	Name    string  // in the store; empty is the kernel's version
	// Note is told what is being done, a line at a time; nil for nobody.
	Note func(string)
	// run replaces the host's programs in tests.
	run runner
}

// runner runs a program in a directory and returns its standard output.
type runner func(ctx context.Context, dir, name string, args ...string) ([]byte, error)

// kernelPackage is what Debian calls the package of one kernel version.
var kernelPackage = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^linux-image-([0-9][A-Za-z0-9.+~-]*-amd64)$`)
})

// Fetch gets the newest kernel of a flavour, with its modules, from the package
// sources of this host, which has to be a Debian. apt finds and verifies the
// package; it is not installed, and nothing of it is run.
func (s *Store) Fetch(ctx context.Context, opt FetchOptions) (*Kernel, error) {
	if opt.Flavour == "" {
		opt.Flavour = Cloud
	}
	meta, ok := packages[opt.Flavour]
	if !ok {
		return nil, fmt.Errorf("%w: flavour %q, want %s or %s", ErrFetch, opt.Flavour, Cloud, Generic)
	}
	if opt.run == nil {
		opt.run = runProgram
	}
	if opt.Note == nil {
		opt.Note = func(string) {}
	}
	if opt.Name != "" {
		if err := checkName(opt.Name); err != nil {
			return nil, err
		}
	}
	pkg, pkgVersion, err := newest(ctx, opt.run, meta)
	if err != nil {
		return nil, err
	}
	if opt.Name == "" {
		opt.Name = kernelPackage().FindStringSubmatch(pkg)[1]
		if err := checkName(opt.Name); err != nil {
			return nil, err
		}
	}
	opt.Note(fmt.Sprintf("downloading %s %s", pkg, pkgVersion))
	return s.add(ctx, opt.Name, pkg+" "+pkgVersion, func(dir string) error {
		down := filepath.Join(dir, "download")
		// apt downloads as the user _apt, who has to be able to write here;
		// the file's hash is checked against apt's signed lists either way.
		if err := os.Mkdir(down, 0o755); err != nil {
			return err
		}
		if _, err := opt.run(ctx, down, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", pkg+"="+pkgVersion); err != nil {
			return fmt.Errorf("%w: %w", ErrFetch, err)
		}
		debs, err := filepath.Glob(filepath.Join(down, "*.deb"))
		if err != nil || len(debs) != 1 {
			return fmt.Errorf("%w: apt-get download left %d packages, want 1", ErrFetch, len(debs))
		}
		opt.Note("unpacking " + filepath.Base(debs[0]))
		f, err := os.Open(debs[0])
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unpackKernelDeb(ctx, f, dir); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(debs[0]), err)
		}
		return os.RemoveAll(down)
	})
}

// newest asks apt which kernel package a meta package stands for. Paragraphs
// come with the candidate first.
func newest(ctx context.Context, run runner, meta string) (pkg, version string, err error) {
	out, err := run(ctx, "", "apt-cache", "show", "--no-all-versions", meta)
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrFetch, err)
	}
	for line := range strings.Lines(string(out)) {
		deps, ok := strings.CutPrefix(line, "Depends:")
		if !ok {
			continue
		}
		for d := range strings.SplitSeq(deps, ",") {
			// "linux-image-6.1.0-41-cloud-amd64 (= 6.1.158-1)"
			name, rest, _ := strings.Cut(strings.TrimSpace(d), " ")
			v, exact := strings.CutPrefix(strings.Trim(rest, "() \n"), "= ")
			if kernelPackage().MatchString(name) && exact && !strings.ContainsAny(v, " |") {
				return name, v, nil
			}
		}
	}
	return "", "", fmt.Errorf("%w: apt does not know which kernel %s is (apt-get update may help)", ErrFetch, meta)
}

func runProgram(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C")
	var out, msg bytes.Buffer
	c.Stdout, c.Stderr = &out, &msg
	err := c.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%s is not on this host: fetching needs Debian's apt; use hvctl kernel import with a kernel of another origin: %w", name, err)
	case err != nil:
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lastLine(msg.String()))
	}
	return out.Bytes(), nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
