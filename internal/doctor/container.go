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
	who := "root"
	if o.UID != 0 {
		who = "user namespaces (all users inside are root, or those of /etc/subuid)"
		for _, s := range userSettings {
			b, err := os.ReadFile(filepath.Join(o.Sys, "proc/sys", s.name))
			if err == nil && strings.TrimSpace(string(b)) == s.forbids {
				lacks("this user gets no user namespaces: "+strings.ReplaceAll(s.name, "/", ".")+" is "+s.forbids, s.fix+", or run hvctl as root")
			}
		}
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
		return good(c, who+", namespaces, overlayfs; images are unpacked, for there is no erofs")
	}
	return good(c, who+", namespaces, overlayfs, erofs")
}

// userSettings are those that keep ordinary users from user namespaces.
var userSettings = []struct{ name, forbids, fix string }{
	{"user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"},
	{"kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"},                                                                            // Debian's
	{"kernel/apparmor_restrict_unprivileged_userns", "1", "give hvctl-ctr an AppArmor profile with userns, or sysctl kernel.apparmor_restrict_unprivileged_userns=0"}, // Ubuntu's
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
