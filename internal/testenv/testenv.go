// Package testenv says what a test may assume of the machine it runs on.
//
// A test that needs more than the Go toolchain starts with Require. Where the
// thing is missing the test is skipped with a reason, unless HVCTL_REQUIRE
// names the thing: then it fails. Continuous integration and the test host set
// HVCTL_REQUIRE, so a skip there can never look like a pass.
package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Need is one thing a test can ask for.
type Need string

const (
	// KVM is a /dev/kvm that opens and creates VMs. The guest code of such a
	// test must be tiny: on some hosts supervisor code is interpreted.
	KVM Need = "kvm"
	// Linux is a KVM on which stock Linux kernels boot, and kernels to boot
	// (HVCTL_TEST_KERNELS, a directory). Only the test host or a machine with
	// hardware virtualization has it.
	Linux Need = "linux"
	// Root is effective uid 0 with CAP_SYS_ADMIN: mounts, tap, namespaces.
	Root Need = "root"
	// Images is a store with the images that end-to-end tests run and the
	// kernels they boot (HVCTL_TEST_STORE, made by scripts/test-store), and the
	// programs (HVCTL_BIN).
	Images Need = "images"
	// Cgroup is a cgroup file system, of any version, that lets us make groups.
	Cgroup Need = "cgroup"
	// CgroupV2 is a pure cgroup v2 tree with the cpu, io, memory and pids
	// controllers, that lets us make groups.
	CgroupV2 Need = "cgroup2"
	// CgroupV1 is cgroup v1 hierarchies with the controllers, beside a v2 tree.
	CgroupV1 Need = "cgroup1"
	// NFTables is a kernel with nf_tables and the program nft.
	NFTables Need = "nftables"
	// MkfsErofs is the program mkfs.erofs.
	MkfsErofs Need = "mkfs.erofs"
	// QEMUImg is the program qemu-img (package qemu-utils).
	QEMUImg Need = "qemu-img"
	// Busybox is a static busybox, for tests that need a small root file
	// system (package busybox-static).
	Busybox Need = "busybox"
	// ImageTools is the programs umoci, skopeo and buildah.
	ImageTools Need = "image-tools"
	// NewUIDMap is the programs newuidmap and newgidmap (package uidmap).
	NewUIDMap Need = "newuidmap"
	// CNIPlugins is Debian's package containernetworking-plugins, and iptables.
	CNIPlugins Need = "cni-plugins"
	// FUSE is a /dev/fuse that opens, to serve a file system of a test's own (module
	// fuse; mounting it takes root, too).
	FUSE Need = "fuse"
	// VhostVsock is a /dev/vhost-vsock that opens (module vhost_vsock, root).
	VhostVsock Need = "vhost-vsock"
	// Landlock is a kernel that confines processes' files (Linux 5.13).
	Landlock Need = "landlock"
	// VhostNet is a /dev/vhost-net that opens (module vhost_net, root).
	VhostNet Need = "vhost-net"
	// NetModules is a kernel with a distribution's modules for networks: macvtap
	// and act_police.
	NetModules Need = "net-modules"
	// IASL is ACPICA's compiler iasl, and its interpreter acpiexec with it.
	IASL Need = "iasl"
	// OCI is our OCI runtime (hvctl-oci in HVCTL_BIN), or the one to test in its
	// place (HVCTL_OCI).
	OCI Need = "oci"
	// Podman is the engine podman with conmon, netavark and iptables.
	Podman Need = "podman"
	// GDB is gdb itself, for the tests of what it connects to and reads.
	GDB Need = "gdb"
	// URing is a kernel that has io_uring and lets us use it.
	URing Need = "io_uring"
	// Systemd is that program, to be run as PID 1 of a namespace.
	Systemd Need = "systemd"
	// AppArmor is that security module, enabled, and apparmor_parser.
	AppArmor Need = "apparmor"
	// SELinux is that security module, enabled, without a policy so far, and the
	// compiler secilc.
	SELinux Need = "selinux"
	// CRIU is the program criu, on a kernel that it works on (`criu check`).
	CRIU Need = "criu"
	// Containerd is the daemon containerd with its client ctr.
	Containerd Need = "containerd"
	// Chromium is that browser, for what is made to be looked at.
	Chromium Need = "chromium"
	// OCISuite is the validation programs of OCI runtime-tools
	// (HVCTL_OCI_SUITE, made by scripts/conformance-tools) and our runtime to
	// judge (hvctl-oci in HVCTL_BIN).
	OCISuite Need = "oci-suite"
)

// Require skips t, or fails it when HVCTL_REQUIRE lists the need, unless every
// need is there. HVCTL_REQUIRE is a comma-separated list of needs.
func Require(t testing.TB, needs ...Need) {
	t.Helper()
	must := strings.Split(os.Getenv("HVCTL_REQUIRE"), ",")
	for _, n := range needs {
		err := probe(n)
		if err == nil {
			continue
		}
		for _, m := range must {
			if Need(m) == n {
				t.Fatalf("%s is required here (HVCTL_REQUIRE) but missing: %v", n, err)
			}
		}
		t.Skipf("needs %s: %v", n, err)
	}
}

// TestKernels returns the directory of guest kernels that Linux tests boot:
// one sub-directory per kernel with vmlinuz and modules. Call Require with
// Linux first.
func TestKernels() string { return os.Getenv("HVCTL_TEST_KERNELS") }

// TestStore returns the image store of end-to-end tests. Call Require with
// Images first.
func TestStore() string { return os.Getenv("HVCTL_TEST_STORE") }

// OCISuiteDir returns the folder of OCI runtime-tools' programs. Call Require
// with OCISuite first.
func OCISuiteDir() string { return os.Getenv("HVCTL_OCI_SUITE") }

func probe(n Need) error {
	switch n {
	case KVM:
		return probeDevice("/dev/kvm")
	case FUSE:
		return probeDevice("/dev/fuse")
	case VhostVsock:
		return probeDevice("/dev/vhost-vsock")
	case Landlock:
		const versionOnly = 1 // LANDLOCK_CREATE_RULESET_VERSION
		if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, versionOnly); errno != 0 {
			return fmt.Errorf("landlock_create_ruleset: %w", errno)
		}
		return nil
	case VhostNet:
		return probeDevice("/dev/vhost-net")
	case NetModules:
		if out, err := exec.Command("modprobe", "-a", "macvtap", "act_police").CombinedOutput(); err != nil {
			return fmt.Errorf("modprobe: %w: %.200s", err, out)
		}
		return nil
	case Linux:
		if TestKernels() == "" {
			return fmt.Errorf("HVCTL_TEST_KERNELS is not set: run it with scripts/testhost")
		}
		return probe(KVM)
	case Images:
		if TestStore() == "" || os.Getenv("HVCTL_BIN") == "" {
			return fmt.Errorf("HVCTL_TEST_STORE or HVCTL_BIN is not set: run it with scripts/test guest")
		}
		return nil
	case OCI:
		if os.Getenv("HVCTL_OCI") == "" && os.Getenv("HVCTL_BIN") == "" {
			return fmt.Errorf("neither HVCTL_BIN nor HVCTL_OCI is set: run it with scripts/test")
		}
		return nil
	case OCISuite:
		if OCISuiteDir() == "" || os.Getenv("HVCTL_BIN") == "" {
			return fmt.Errorf("HVCTL_OCI_SUITE or HVCTL_BIN is not set: run it with scripts/test")
		}
		return nil
	case Root:
		if os.Geteuid() != 0 {
			return fmt.Errorf("effective uid is %d, not 0", os.Geteuid())
		}
		return nil
	case CgroupV1:
		for _, dir := range []string{"cpu,cpuacct", "cpuset", "memory", "devices", "freezer", "pids", "unified"} {
			if !exists("/sys/fs/cgroup/" + dir) {
				return fmt.Errorf("there is no /sys/fs/cgroup/%s", dir)
			}
		}
		return nil
	case Cgroup, CgroupV2:
		return probeCgroup(n == CgroupV2)
	case NFTables:
		if _, err := exec.LookPath("nft"); err != nil {
			return err
		}
		return probeNFTables()
	case MkfsErofs, Busybox, QEMUImg:
		return probePrograms(string(n))
	case Podman:
		return probePrograms("podman", "conmon", "iptables", "/usr/lib/podman/netavark")
	case ImageTools:
		return probePrograms("umoci", "skopeo", "buildah")
	case NewUIDMap:
		return probePrograms("newuidmap", "newgidmap")
	case Chromium:
		return probePrograms("chromium")
	case GDB:
		return probePrograms("gdb")
	case URing:
		return probeURing()
	case CNIPlugins:
		return probePrograms("/usr/lib/cni/bridge", "/usr/lib/cni/portmap", "/usr/lib/cni/host-local", "iptables-save")
	case Systemd:
		return probePrograms("/lib/systemd/systemd", "systemctl", "nsenter", "setpriv")
	case AppArmor:
		if b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil {
			return fmt.Errorf("AppArmor is not enabled here: %w", err)
		} else if !strings.HasPrefix(string(b), "Y") {
			return fmt.Errorf("AppArmor is not enabled here (%q)", b)
		}
		return probePrograms("apparmor_parser")
	case SELinux:
		if b, err := os.ReadFile("/proc/filesystems"); err != nil {
			return err
		} else if !strings.Contains(string(b), "selinuxfs") {
			return fmt.Errorf("SELinux is not enabled here: the kernel has no selinuxfs")
		}
		return probePrograms("secilc")
	case CRIU:
		if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
			return fmt.Errorf("criu check: %w: %.200s", err, out)
		}
		return nil
	case Containerd:
		return probePrograms("containerd", "ctr")
	case IASL:
		_, err := exec.LookPath("iasl")
		if err == nil {
			_, err = exec.LookPath("acpiexec")
		}
		return err
	}
	return fmt.Errorf("unknown need %q", n)
}

func probePrograms(names ...string) error {
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			return err
		}
	}
	return nil
}

// probeURing asks for a ring of no entries, which a kernel that has rings calls
// invalid or, without an address, a fault.
func probeURing() error {
	switch _, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 0, 0, 0); e {
	case unix.EINVAL, unix.EFAULT:
		return nil
	default:
		return fmt.Errorf("io_uring_setup: %w", e)
	}
}

func probeDevice(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return unix.Close(fd)
}
