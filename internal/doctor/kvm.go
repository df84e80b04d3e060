package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hvctl/hvctl/kvm"
	"golang.org/x/sys/unix"
)

// Mode is how the guest's code runs.
type Mode string

// The modes, best first.
const (
	Hardware    Mode = "hardware"    // on the processor, VMX or SVM
	Nested      Mode = "nested"      // the same, below another hypervisor
	Emulated    Mode = "emulated"    // below QEMU's TCG: right, and slow
	Interpreted Mode = "interpreted" // supervisor code is interpreted by the kernel (PVM)
	Unknown     Mode = "unknown"
)

func kvmDevice(o Options) Check {
	c := Check{Name: "kvm", Why: "VMs run on the kernel's KVM"}
	if !supported() {
		return bad(c, Fail, "this machine is "+runtime.GOARCH, "use an x86-64 machine")
	}
	sys, err := kvm.OpenDevice(filepath.Join(o.Sys, kvm.DevicePath))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fix := "load the module: modprobe kvm-intel or kvm-amd"
		if !hasFlag(o, "vmx") && !hasFlag(o, "svm") {
			fix = "enable virtualization (VT-x or AMD-V) in the firmware, or nested virtualization in the hypervisor this machine runs on"
		}
		return bad(c, Fail, kvm.DevicePath+" does not exist", fix)
	case errors.Is(err, fs.ErrPermission):
		return bad(c, Fail, kvm.DevicePath+" may not be opened by this user", "join its group: usermod -aG kvm $USER, then log in again")
	case err != nil:
		return bad(c, Fail, err.Error(), "see dmesg for what the kvm module says")
	}
	defer sys.Close()
	if err := sys.Require(kvm.CapUserMemory, kvm.CapIRQChip, kvm.CapIRQFD, kvm.CapIOEventFD, kvm.CapSignalMSI); err != nil {
		return bad(c, Fail, err.Error(), "use a kernel with full KVM (5.10 or later)")
	}
	return good(c, fmt.Sprintf("%s opens, API version %d", kvm.DevicePath, kvm.APIVersion))
}

func kvmMode(o Options) Check {
	c := Check{Name: "kvm-mode", Why: "how the guest's code runs decides how fast VMs are, and whether stock kernels boot"}
	mode, detail := DetectMode(o.Sys)
	switch mode {
	case Hardware:
		return good(c, detail)
	case Nested:
		return bad(c, Warn, detail, "VM exits are slower than on bare metal; nothing to do inside this machine")
	case Emulated:
		return bad(c, Warn, detail, "everything works and is slow; fit for tests")
	case Interpreted:
		return bad(c, Fail, detail, "stock Linux kernels do not boot here; use a machine with hardware or nested virtualization, or scripts/testhost for tests")
	default:
		return bad(c, Warn, detail, "make the check kvm pass first")
	}
}

// DetectMode tells how guests run on the host whose root is sys ("/"), and
// says why in words. Benchmarks put it into their results.
func DetectMode(sys string) (Mode, string) {
	o := Options{Sys: sys}
	if _, err := os.Stat(filepath.Join(sys, "sys/module/kvm_pvm")); err == nil {
		return Interpreted, "kvm_pvm: supervisor code of guests is interpreted by the kernel"
	}
	d, err := timeGuest(filepath.Join(sys, kvm.DevicePath))
	if err != nil {
		return Unknown, "no guest could be run: " + err.Error()
	}
	vendor := hypervisorVendor()
	tcg := strings.HasPrefix(vendor, "TCG") // time tells nothing there: a processor as slow as an interpreter
	if d > interpretedAbove && !tcg {
		return Interpreted, fmt.Sprintf("a loop of %d supervisor instructions took %v: it is interpreted", 2*loopCount, d.Round(time.Microsecond))
	}
	kind := "VMX (Intel)"
	if hasFlag(o, "svm") {
		kind = "SVM (AMD)"
	}
	took := fmt.Sprintf("%s; a loop of %d supervisor instructions took %v", kind, 2*loopCount, d.Round(time.Microsecond))
	switch {
	case tcg:
		return Emulated, took + "; below QEMU's TCG"
	case hasFlag(o, "hypervisor"):
		return Nested, took + "; this machine is itself a VM (" + orUnknown(vendor) + ")"
	}
	return Hardware, took
}

func orUnknown(s string) string {
	if s == "" {
		return "hypervisor unknown"
	}
	return s
}

// hasFlag looks for a processor flag in /proc/cpuinfo.
func hasFlag(o Options, flag string) bool {
	b, err := os.ReadFile(filepath.Join(o.Sys, "proc/cpuinfo"))
	if err != nil {
		return false
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if name, flags, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			return strings.Contains(" "+flags+" ", " "+flag+" ")
		}
	}
	return false
}

const (
	// loopCount is small enough to end soon even when interpreted (about
	// 20 ms seen) and long enough to tell that from a processor (0.1 ms).
	loopCount        = 20000
	interpretedAbove = 5 * time.Millisecond
	guestTimeout     = 2 * time.Second
)

// guestCode runs in real mode, which is supervisor mode, at 0x1000.
var guestCode = []byte{
	0x66, 0xb9, loopCount & 0xff, loopCount >> 8 & 0xff, loopCount >> 16 & 0xff, 0, // mov ecx, loopCount
	0x66, 0x49, // dec ecx
	0x75, 0xfc, // jnz back to dec
	0xe6, 0x80, // out 0x80, al: tells us
}

// timeGuest runs guestCode in a VM of one page and returns how long it took.
func timeGuest(device string) (time.Duration, error) {
	type result struct {
		d   time.Duration
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // the vCPU belongs to this thread, which ends with it
		d, err := runGuest(device)
		done <- result{d, err}
	}()
	select {
	case r := <-done:
		return r.d, r.err
	case <-time.After(guestTimeout): // the thread stays in KVM_RUN until the process ends
		return guestTimeout, nil
	}
}

func runGuest(device string) (time.Duration, error) {
	sys, err := kvm.OpenDevice(device)
	if err != nil {
		return 0, err
	}
	defer sys.Close()
	vm, err := sys.CreateVM()
	if err != nil {
		return 0, err
	}
	defer vm.Close()
	mem, err := unix.Mmap(-1, 0, 0x2000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, os.NewSyscallError("mmap", err)
	}
	defer func() { _ = unix.Munmap(mem) }() // nobody uses it any more
	copy(mem[0x1000:], guestCode)
	if err := vm.SetMemorySlot(0, 0, 0, mem); err != nil {
		return 0, err
	}
	cpu, err := vm.CreateVCPU(0)
	if err != nil {
		return 0, err
	}
	defer cpu.Close()
	sregs, err := cpu.Sregs()
	if err != nil {
		return 0, err
	}
	sregs.CS.Base, sregs.CS.Selector = 0, 0
	if err := cpu.SetSregs(&sregs); err != nil {
		return 0, err
	}
	if err := cpu.SetRegs(&kvm.Regs{RIP: 0x1000, RFLAGS: 2}); err != nil {
		return 0, err
	}
	start := time.Now()
	for {
		reason, err := cpu.Run()
		if err != nil {
			return 0, err
		}
		switch reason {
		case kvm.ExitIntr, kvm.ExitAgain:
		case kvm.ExitIO:
			return time.Since(start), nil
		default:
			return 0, fmt.Errorf("the test guest ended with %v", reason)
		}
	}
}
