package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func memory(o Options) Check {
	c := Check{Name: "memory", Why: "a VM's memory is taken from what the host has available as the guest touches it"}
	free := meminfo(o, "MemAvailable")
	if free == 0 {
		return bad(c, Warn, "/proc/meminfo does not tell", "mount /proc")
	}
	detail := fmt.Sprintf("%d MiB available", free>>10)
	if free < 512<<10 {
		return bad(c, Warn, detail, "free some memory, or run VMs with less (-m 128M)")
	}
	return good(c, detail)
}

// meminfo is a value of /proc/meminfo in KiB or pages; 0 when it is not there.
func meminfo(o Options, key string) uint64 {
	b, err := os.ReadFile(filepath.Join(o.Sys, "proc/meminfo"))
	if err != nil {
		return 0
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == key+":" {
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

func defaultKernel(o Options) Check {
	c := Check{Name: "kernel", Why: "a VM boots a kernel from the kernel store"}
	const fix = "fetch one: hvctl kernel fetch, or import one: hvctl kernel import --name NAME FILE"
	if o.DefaultKernel == nil {
		return bad(c, Warn, "no kernel store", fix)
	}
	text, err := o.DefaultKernel()
	if err != nil {
		return bad(c, Warn, err.Error(), fix)
	}
	return good(c, text)
}

func helpers(o Options) Check {
	c := Check{Name: "programs", Why: "a VM is owned by hvctl-vmm, and starts hvinit inside; a container is owned by hvctl-ctr; networks in user mode are hvctl-net's"}
	var names, missing []string
	for n, err := range o.Helpers {
		if err != nil {
			missing = append(missing, err.Error())
		}
		names = append(names, n)
	}
	slices.Sort(missing)
	slices.Sort(names)
	if len(missing) > 0 {
		return bad(c, Fail, strings.Join(missing, "; "), "install hvctl whole: make build puts its programs into bin/")
	}
	return good(c, strings.Join(names, ", ")+" found")
}

func storeDir(o Options) Check {
	return writable(Check{Name: "store", Why: "images and kernels are kept there"}, o.Store, "--store DIR or HVCTL_STORE")
}

func rootDir(o Options) Check {
	return writable(Check{Name: "root", Why: "running instances keep their state there"}, o.Root, "--root DIR or HVCTL_ROOT")
}

// writable checks dir, or the nearest directory above it that is there.
func writable(c Check, dir, flag string) Check {
	at := dir
	for {
		_, err := os.Stat(at)
		if err == nil || at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
		return bad(c, Warn, fmt.Sprintf("%s may not be written: %v", at, err), "use another one: "+flag)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(at, &fs); err != nil {
		return bad(c, Warn, fmt.Sprintf("%s: %v", at, err), "use another one: "+flag)
	}
	free := fs.Bavail * uint64(fs.Bsize) >> 20
	detail := fmt.Sprintf("%s, %d MiB free", dir, free)
	if free < 64 {
		return bad(c, Warn, detail, "free some space, or use another one: "+flag)
	}
	return good(c, detail)
}

// device opens a device node.
func device(o Options, c Check, path, fix string) Check {
	f, err := os.OpenFile(filepath.Join(o.Sys, path), os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bad(c, Warn, path+" does not exist", fix)
	case err != nil:
		return bad(c, Warn, path+": "+errText(err), "run hvctl as root, or allow this user to open "+path)
	}
	f.Close()
	return good(c, path+" opens")
}

func errText(err error) string {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}

func tap(o Options) Check {
	return device(o, Check{Name: "tap", Why: "a VM on the bridge network has a tap device"}, "/dev/net/tun", "modprobe tun, or run with --network user")
}

func netAdmin(Options) Check {
	c := Check{Name: "net-admin", Why: "bridges, taps and address translation need CAP_NET_ADMIN"}
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		return bad(c, Warn, os.NewSyscallError("capget", err).Error(), "run hvctl as root")
	}
	if d[0].Effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		return bad(c, Warn, "this user does not have it", "run hvctl as root, or with --network user")
	}
	return good(c, "present")
}

// nfTables asks the kernel for the generation of its nf_tables rules, which
// loads the module where it can be loaded.
func nfTables(Options) Check {
	c := Check{Name: "nf-tables", Why: "guests on the bridge reach the outside by address translation in nf_tables"}
	const fix = "modprobe nf_tables nft_chain_nat nft_masq, as root"
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return bad(c, Warn, os.NewSyscallError("socket", err).Error(), fix)
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	const getGen = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN
	q := make([]byte, 20) // struct nlmsghdr and struct nfgenmsg, all zero
	binary.NativeEndian.PutUint32(q, uint32(len(q)))
	binary.NativeEndian.PutUint16(q[4:], getGen)
	binary.NativeEndian.PutUint16(q[6:], unix.NLM_F_REQUEST)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
	if err := unix.Sendto(fd, q, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return bad(c, Warn, os.NewSyscallError("sendto", err).Error(), fix)
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil || n < 20 {
		return bad(c, Warn, fmt.Sprintf("no answer from the kernel: %v", err), fix)
	}
	if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
		errno := unix.Errno(-int32(binary.NativeEndian.Uint32(b[16:])))
		if errno == unix.EPERM {
			return bad(c, Warn, "may not be asked by this user", "run hvctl as root")
		}
		return bad(c, Warn, "not in this kernel: "+errno.Error(), fix)
	}
	return good(c, "answers")
}

func vhostNet(o Options) Check {
	return device(o, Check{Name: "vhost-net", Why: "faster networking: packets need no way through the VMM"}, "/dev/vhost-net", "modprobe vhost_net; VMs work without")
}

func vhostVsock(o Options) Check {
	return device(o, Check{Name: "vhost-vsock", Why: "sockets to the guest in the kernel; the VMM has its own otherwise"}, "/dev/vhost-vsock", "modprobe vhost_vsock; VMs work without")
}

func cgroups(o Options) Check {
	c := Check{Name: "cgroup", Why: "limits of memory, CPU and processes are enforced by cgroup v2; v1 works, with less to tell"}
	const fix = "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 on /sys/fs/cgroup"
	path := filepath.Join(o.Sys, "sys/fs/cgroup")
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return bad(c, Warn, fmt.Sprintf("%s: %v", path, err), fix)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return bad(c, Warn, "this host has cgroup v1, or both", fix)
	}
	b, err := os.ReadFile(filepath.Join(path, "cgroup.controllers"))
	if err != nil {
		return bad(c, Warn, err.Error(), fix)
	}
	have := strings.Fields(string(b))
	for _, want := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(have, want) {
			return bad(c, Warn, "no controller "+want, "enable it in the parent's cgroup.subtree_control")
		}
	}
	return good(c, "v2 with "+strings.Join(have, " "))
}

func hugePages(o Options) Check {
	c := Check{Name: "hugepages", Why: "fewer misses of the processor's address cache with run --hugepages"}
	total, free := meminfo(o, "HugePages_Total"), meminfo(o, "HugePages_Free")
	b, err := os.ReadFile(filepath.Join(o.Sys, "sys/kernel/mm/transparent_hugepage/enabled"))
	thp := "transparent ones unknown"
	if err == nil {
		if _, s, ok := strings.Cut(string(b), "["); ok {
			s, _, _ = strings.Cut(s, "]")
			thp = "transparent ones: " + s
		}
	}
	detail := fmt.Sprintf("%d of %d free; %s", free, total, thp)
	if total == 0 {
		return bad(c, Warn, detail, "reserve some: sysctl vm.nr_hugepages=512; VMs work without")
	}
	return good(c, detail)
}

func aptTools(Options) Check {
	c := Check{Name: "apt", Why: "hvctl kernel fetch gets kernels through the host's apt"}
	for _, name := range []string{"apt-get", "apt-cache"} {
		if _, err := exec.LookPath(name); err != nil {
			return bad(c, Warn, name+" is not installed", "import a kernel by hand: hvctl kernel import --name NAME FILE")
		}
	}
	return good(c, "installed")
}
