package cgroup

import (
	"fmt"
	"path"
	"strings"
)

// maxPath bounds a path; the kernel bounds each element with NAME_MAX.
const maxPath = 4000

// CleanPath checks a path as OCI's linux.cgroupsPath has it and returns it
// without empty elements. Absolute paths count from the hierarchy's root as
// this process sees it, relative ones from the caller's own group. No element
// may be ".": nobody needs it, nor "..": it would name a group that its
// prefix does not promise.
func CleanPath(p string) (string, error) {
	if p == "" {
		return "", fmt.Errorf("%w: it is empty", ErrPath)
	}
	if len(p) > maxPath {
		return "", fmt.Errorf("%w: longer than %d bytes", ErrPath, maxPath)
	}
	if strings.ContainsAny(p, "\x00\n") {
		return "", fmt.Errorf("%w: %q has a NUL or newline", ErrPath, p)
	}
	if strings.Count(p, ":") == 2 && !strings.Contains(p, "/") {
		return "", fmt.Errorf("%w: %q is meant for systemd's driver (SLICE:PREFIX:NAME); this is the cgroupfs driver, use /PARENT/NAME", ErrPath, p)
	}
	for e := range strings.SplitSeq(p, "/") {
		switch {
		case e == "." || e == "..":
			return "", fmt.Errorf("%w: %q has the element %q", ErrPath, p, e)
		case len(e) > 255:
			return "", fmt.Errorf("%w: an element of it is longer than 255 bytes", ErrPath)
		case strings.HasPrefix(e, "cgroup."):
			return "", fmt.Errorf("%w: %q has the element %q; names beginning with \"cgroup.\" are the kernel's", ErrPath, p, e)
		}
	}
	c := path.Clean(p)
	if c == "/" {
		return "", fmt.Errorf("%w: it is the root group", ErrPath)
	}
	return c, nil
}

// JoinPath is the path of name below parent, such as --cgroup-parent and an
// instance's ID. An empty parent is the root. name is one or more elements and
// never leads out of parent.
func JoinPath(parent, name string) (string, error) {
	if name == "" || strings.HasPrefix(name, "/") {
		return "", fmt.Errorf("%w: %q is no name below a parent", ErrPath, name)
	}
	if parent == "" {
		parent = "/"
	}
	return CleanPath(parent + "/" + name)
}

// below is dir/rel, both checked before.
func below(dir, rel string) string { return path.Join(dir, rel) }

// Within tells whether dir is root or below it, by whole elements: /a/b is not
// within /a/bc, nor /a/bc within /a/b. Both are clean.
func Within(root, dir string) bool {
	return dir == root || root == "/" || strings.HasPrefix(dir, strings.TrimSuffix(root, "/")+"/")
}
