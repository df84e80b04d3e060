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
	for _, fs := range []string{"overlay", "erofs"} {
		if !fileSystem(o, fs) {
			lacks("no file system "+fs, "modprobe "+fs)
		}
	}
	if len(missing) > 0 {
		return bad(c, Warn, strings.Join(missing, ", "), strings.Join(fixes, "; "))
	}
	return good(c, "root, namespaces, overlayfs, erofs")
}

// fileSystem tells whether the kernel has a file system or can load it.
func fileSystem(o Options, name string) bool {
	b, err := os.ReadFile(filepath.Join(o.Sys, "proc/filesystems"))
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
	b, err = os.ReadFile(filepath.Join(o.Sys, "lib/modules", unix.ByteSliceToString(u.Release[:]), "modules.dep"))
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
