// Package qemuvm is the measured peer: QEMU's microvm machine with the kernel, the
// initramfs, the root file system image and the devices of our own VMs, whose
// agent the benchmark talks to over vhost-vsock as hvctl does. hvctl itself never
// uses it.
package qemuvm

import (
	"fmt"
	"os"

	"github.com/hvctl/hvctl/internal/workload"
)

// Program is where Debian's package qemu-system-x86 has QEMU.
const Program = "/usr/bin/qemu-system-x86_64"

// guestCID is the peer's guest.
const guestCID = 4242

// Look returns why there is no QEMU at path.
func Look(path string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("QEMU: %w (install the package qemu-system-x86, or measure without it)", err)
	}
	return nil
}

// Arguments are QEMU's for the VM that c would be, with an unpacked kernel: QEMU
// enters it by PVH, as we do. What the guest's serial port says goes to a file.
func Arguments(c *workload.Config, kernel string, cpus, memoryMiB int, serial string) []string {
	return []string{
		"-M", "microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on,memory-backend=ram",
		"-cpu", "host", "-smp", fmt.Sprint(cpus), "-m", fmt.Sprint(memoryMiB),
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,share=on", memoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "file:" + serial,
		"-kernel", kernel, "-initrd", c.VM.Initrd, "-append", c.VM.Cmdline,
		"-drive", "id=root,if=none,format=raw,read-only=on,file=" + c.Rootfs.ImagePath,
		"-device", "virtio-blk-device,drive=root,serial=root",
		"-device", fmt.Sprintf("vhost-vsock-device,guest-cid=%d", guestCID),
		"-device", "virtio-rng-device",
	}
}
