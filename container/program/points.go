package program

import (
	"strings"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// MountPoints is the steps that make the missing mount points below a root
// directory, for whoever mounts there himself. isDir says which of them are
// directories.
func MountPoints(root string, mounts []plan.Mount, isDir func(*plan.Mount) bool) *steps.Program {
	b := newBuilder()
	top := b.Space(8)
	b.Call("umask", unix.SYS_UMASK, 0)
	b.Call("open "+root, unix.SYS_OPEN, b.text(root), dirPath|unix.O_CLOEXEC).Store(top)
	for i := range mounts {
		m := &mounts[i]
		if inOther(mounts[:i], m.Dest) {
			continue // it will be in a file system that is not there yet
		}
		at := b.Space(8)
		b.about = "mount " + m.Dest + ": "
		if isDir(m) {
			b.mkdirAll(top, m.Dest, at)
		} else {
			b.touch(top, m.Dest, at)
		}
		b.close(at)
		b.about = ""
	}
	b.Call("exit", unix.SYS_EXIT_GROUP, 0)
	return b.Program
}

// inOther says that a path lies in one of the mounts.
func inOther(mounts []plan.Mount, dest string) bool {
	for i := range mounts {
		if d := mounts[i].Dest; d != "/" && strings.HasPrefix(dest, d+"/") {
			return true
		}
	}
	return false
}
