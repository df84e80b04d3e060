package doctor

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// containers looks at what `hvctl run --backend container` needs of the host
// beyond what VMs have: nothing to install, but much to be allowed.
func containers(o Options) Check {
	c := Check{Name: "containers", Why: "a container is namespaces of the host's kernel, with the image mounted below an overlay"}
	var missing, fixes []string
	lacks := func(what, fix string) {
		missing = append(missing, what)
		fixes = append(fixes, fix)
	}
	if o.UID != 0 {
		lacks("not root", "run hvctl as root, or podman with hvctl-oci as this user")
	}
	for _, ns := range []string{"mnt", "pid", "ipc", "uts", "net", "cgroup"} {
		if _, err := os.Stat(filepath.Join(o.Sys, "proc/self/ns", ns)); err != nil {
			lacks("no "+ns+" namespaces", "boot a kernel that has them")
		}
	}
	if !FileSystem(o.Sys, "overlay") {
		lacks("no file system overlay", "modprobe overlay")
	}
	if len(missing) > 0 {
		return bad(c, Warn, strings.Join(missing, ", "), strings.Join(fixes, "; "))
	}
	if !FileSystem(o.Sys, "erofs") {
		return good(c, "root, namespaces, overlayfs; images are unpacked, for there is no erofs")
	}
	return good(c, "root, namespaces, overlayfs, erofs")
}

// FileSystem tells whether the kernel has a file system or can load it. sys
// stands for /.
func FileSystem(sys, name string) bool {
	b, err := os.ReadFile(filepath.Join(sys, "proc/filesystems"))
	if err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == name {
				return true
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	b, err = os.ReadFile(filepath.Join(sys, "lib/modules", unix.ByteSliceToString(u.Release[:]), "modules.dep"))
	return err == nil && bytes.Contains(b, fmt.Appendf(nil, "/%s.ko", name))
}

// ContainersUsable tells whether containers can run.
func ContainersUsable(checks []Check) bool {
	for _, c := range checks {
		if (c.Name == "containers" || c.Name == "programs") && c.Status != OK {
			return false
		}
	}
	return true
}
