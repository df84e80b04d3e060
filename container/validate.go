package container

import (
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// checker collects what is wrong.
type checker struct{ errs []error }

func (c *checker) add(field, format string, a ...any) {
	c.errs = append(c.errs, &FieldError{Field: field, Reason: fmt.Sprintf(format, a...)})
}

// noNUL refuses a text that would end early in the kernel.
func (c *checker) noNUL(field, s string) {
	if strings.IndexByte(s, 0) >= 0 {
		c.add(field, "has a NUL byte")
	}
}

// maxDepth bounds the components of a path inside the container.
const maxDepth = 128

// path refuses what the kernel would, and what is absurd.
func (c *checker) path(field, p string) {
	c.noNUL(field, p)
	if len(p) >= unix.PathMax || strings.Count(p, "/") > maxDepth {
		c.add(field, "is longer than %d bytes or deeper than %d folders", unix.PathMax-1, maxDepth)
	}
}

// abs wants an absolute path.
func (c *checker) abs(field, p string) {
	c.path(field, p)
	if !path.IsAbs(p) {
		c.add(field, "%q is not an absolute path", p)
	}
}

// Validate checks a configuration for everything that can be judged without
// touching the host's state. The error lists every mistake with its field and
// wraps ErrConfig.
func Validate(s *specs.Spec) error {
	c := new(checker)
	c.version(s.Version)
	c.root(s.Root)
	if s.Process != nil {
		c.process("process", s.Process)
	}
	c.names(s)
	c.mounts(s)
	if s.Hooks != nil {
		c.hooks(s.Hooks)
	}
	c.foreign(s)
	if s.Linux != nil {
		c.linux(s)
	}
	if len(c.errs) > 0 {
		return configError(c.errs)
	}
	return nil
}

func (c *checker) version(v string) {
	switch major, _, _ := strings.Cut(v, "."); {
	case v == "":
		c.add("ociVersion", "is missing")
	case major != "1":
		c.add("ociVersion", "%q is not supported, want 1.x", v)
	}
}

func (c *checker) root(r *specs.Root) {
	switch {
	case r == nil:
		c.add("root", "is missing")
	case r.Path == "":
		c.add("root.path", "is empty")
	default:
		c.noNUL("root.path", r.Path)
	}
}

func (c *checker) names(s *specs.Spec) {
	for _, n := range []struct{ field, value string }{{"hostname", s.Hostname}, {"domainname", s.Domainname}} {
		if n.value == "" {
			continue
		}
		if len(n.value) > 64 || strings.IndexByte(n.value, 0) >= 0 {
			c.add(n.field, "is longer than 64 bytes or has a NUL byte")
		}
		if namespaceOf(s, specs.UTSNamespace) == nil {
			c.add(n.field, "needs a uts namespace in linux.namespaces, it would change the host's")
		}
	}
	for k := range s.Annotations {
		if k == "" {
			c.add("annotations", "a key is empty")
		}
	}
}

// foreign refuses sections for other systems that ask for something.
func (c *checker) foreign(s *specs.Spec) {
	if s.Windows != nil {
		c.add("windows", "is for another platform")
	}
	if s.Solaris != nil {
		c.add("solaris", "is for another platform")
	}
	if s.FreeBSD != nil {
		c.add("freebsd", "is for another platform")
	}
	if s.ZOS != nil {
		c.add("zos", "is for another platform")
	}
}

func (c *checker) hooks(h *specs.Hooks) {
	for _, k := range []struct {
		name string
		list []specs.Hook
	}{
		{"prestart", h.Prestart}, //nolint:staticcheck // deprecated, and still to be run

		{"createRuntime", h.CreateRuntime},
		{"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer},
		{"poststart", h.Poststart},
		{"poststop", h.Poststop},
	} {
		for i, hook := range k.list {
			field := fmt.Sprintf("hooks.%s[%d]", k.name, i)
			c.abs(field+".path", hook.Path)
			if hook.Timeout != nil && (*hook.Timeout <= 0 || *hook.Timeout > 1<<20) {
				c.add(field+".timeout", "%d is not a positive number of seconds", *hook.Timeout)
			}
			for _, s := range append(append([]string{}, hook.Args...), hook.Env...) {
				c.noNUL(field, s)
			}
		}
	}
}

func (c *checker) mounts(s *specs.Spec) {
	for i, m := range s.Mounts {
		field := fmt.Sprintf("mounts[%d]", i)
		c.noNUL(field+".source", m.Source)
		c.noNUL(field+".type", m.Type)
		if m.Destination == "" || path.Clean("/"+m.Destination) == "/" {
			c.add(field+".destination", "%q is not a place below the root", m.Destination)
		}
		c.path(field+".destination", m.Destination)
		if _, err := parseMount(&s.Mounts[i]); err != nil {
			c.add(field+".options", "%v", err)
		}
		if len(m.UIDMappings) > 0 != (len(m.GIDMappings) > 0) {
			c.add(field, "uidMappings and gidMappings go together")
		}
		c.mappings(field+".uidMappings", m.UIDMappings)
		c.mappings(field+".gidMappings", m.GIDMappings)
	}
}
