package machine

import (
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/memory"
)

// breaksSeen tells whether KVM on this host stops at an INT3. Emulated hosts and
// those that interpret supervisor code deliver it to the guest in spite of
// KVM_GUESTDBG_USE_SW_BP, and say nothing of it; so one is tried, in a machine
// of its own.
func breaksSeen(sys *kvm.System) (bool, error) {
	runtime.LockOSThread() // a vCPU belongs to one thread
	defer runtime.UnlockOSThread()
	vm, err := sys.CreateVM()
	if err != nil {
		return false, err
	}
	ram, err := unix.Mmap(-1, 0, 2*memory.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		_ = vm.Close()
		return false, err
	}
	defer func() { _ = unix.Munmap(ram) }() // after the vCPU and the VM have gone
	defer vm.Close()
	const code, hlt = memory.PageSize, 0xf4
	ram[code], ram[0] = int3, hlt // the interrupt table is all zeroes: INT3 goes to 0:0
	if err := vm.SetMemorySlot(0, 0, 0, ram); err != nil {
		return false, err
	}
	if err := vm.SetTSSAddr(tssBase); err != nil {
		return false, err
	}
	c, err := vm.CreateVCPU(0)
	if err != nil {
		return false, err
	}
	defer c.Close()
	s, err := c.Sregs()
	if err != nil {
		return false, err
	}
	s.CS.Base, s.CS.Selector = 0, 0
	if err := c.SetSregs(&s); err != nil {
		return false, err
	}
	if err := c.SetRegs(&kvm.Regs{RIP: code, RSP: code, RFLAGS: 2}); err != nil {
		return false, err
	}
	if err := c.SetGuestDebug(&kvm.GuestDebug{Control: kvm.GuestDebugEnable | kvm.GuestDebugUseSWBP}); err != nil {
		return false, err
	}
	for {
		switch r, err := c.Run(); {
		case err != nil:
			return false, err
		case r == kvm.ExitIntr || r == kvm.ExitAgain:
		default:
			return r == kvm.ExitDebug, nil
		}
	}
}
