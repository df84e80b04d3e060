package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/microvm/prepare"
	ctrprepare "github.com/hvctl/hvctl/internal/nscontainer/prepare"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v2"
)

// backendEnv is what a backend is told of the command line.
type backendEnv struct {
	Store string // directory of images and kernels
}

// backendEntry is one backend of this build.
type backendEntry struct {
	name string
	new  func(backendEnv) (workload.Backend, error)
}

// backends is every backend of this build; the first one is the default.
var backends = []backendEntry{
	{"vm", newVMBackend},
	{"container", newContainerBackend},
}

// newContainerBackend is the container backend with its program.
func newContainerBackend(env backendEnv) (workload.Backend, error) {
	owner, err := findHelper("hvctl-ctr")
	if err != nil {
		return nil, err
	}
	tree := func(ctx context.Context, c *workload.Config) (string, error) {
		s, err := images.Open(env.Store)
		if err != nil {
			return "", err
		}
		return s.Tree(ctx, images.Rootfs{Path: c.Rootfs.ImagePath, Format: c.Rootfs.FSType, Digest: digest.Digest(c.Image.Digest)})
	}
	return ctrprepare.New(ctrprepare.Options{Owner: owner, Tree: tree}), nil
}

// newVMBackend is the microVM backend with its two programs.
func newVMBackend(env backendEnv) (workload.Backend, error) {
	vmm, err := findHelper("hvctl-vmm")
	if err != nil {
		return nil, err
	}
	hvinit, err := findHelper("hvinit")
	if err != nil {
		return nil, err
	}
	return prepare.New(prepare.Options{
		VMM: vmm, Hvinit: hvinit,
		KernelDir: filepath.Join(env.Store, "kernels"), CacheDir: filepath.Join(env.Store, "cache"),
	}), nil
}

// backend makes the backend called name; empty: the default.
func (p *program) backend(c *cli.Context, name string) (workload.Backend, error) {
	var known []string
	for _, e := range p.backends {
		if name == "" || e.name == name {
			store, err := storeDir(c)
			if err != nil {
				return nil, err
			}
			return e.new(backendEnv{Store: store})
		}
		known = append(known, e.name)
	}
	return nil, fmt.Errorf("backend %q: not in this build, which has %s", name, orNone(known))
}

func orNone(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

// findHelper is the path of a program that belongs to hvctl: beside it, or
// under ../libexec/hvctl.
func findHelper(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	for _, p := range []string{filepath.Join(dir, name), filepath.Join(dir, "..", "libexec", "hvctl", name)} {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: not found beside %s nor under libexec/hvctl; install it there", name, self)
}
