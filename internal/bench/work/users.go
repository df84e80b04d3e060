package work

import (
	"fmt"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/etcfiles"
)

// creds are the process's user and groups, as the image has them.
func creds(rootfs string, p *specs.Process) (etcfiles.Creds, error) {
	t, err := etcfiles.OpenTree(rootfs)
	if err != nil {
		return etcfiles.Creds{}, err
	}
	defer t.Close()
	passwd, err := t.ReadFile("/etc/passwd", etcfiles.MaxUserFile)
	if err != nil {
		return etcfiles.Creds{}, err
	}
	group, err := t.ReadFile("/etc/group", etcfiles.MaxUserFile)
	if err != nil {
		return etcfiles.Creds{}, err
	}
	return etcfiles.Lookup(p.User.Username, p.User, passwd, group)
}

// lookPath finds the process's program as a container's runtime does: in the PATH
// that it is given, inside rootfs.
func lookPath(rootfs string, p *specs.Process) (string, error) {
	t, err := etcfiles.OpenTree(rootfs)
	if err != nil {
		return "", err
	}
	defer t.Close()
	name, dirs := p.Args[0], []string{""}
	if !strings.Contains(name, "/") {
		dirs = strings.Split(etcfiles.DefaultPath, ":")
		for _, e := range p.Env {
			if v, ok := strings.CutPrefix(e, "PATH="); ok {
				dirs = strings.Split(v, ":")
			}
		}
	}
	for _, d := range dirs {
		at := path.Join(d, name)
		if !path.IsAbs(at) {
			at = path.Join(p.Cwd, at)
		}
		f, err := t.Open(at, unix.O_PATH, 0)
		if err != nil {
			continue
		}
		st, err := f.Stat()
		f.Close()
		if err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return at, nil
		}
	}
	return "", fmt.Errorf("exec: %q: executable file not found in $PATH", name)
}
