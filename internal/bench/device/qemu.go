package device

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/hvctl/hvctl/images/kernel"
	"github.com/hvctl/hvctl/internal/boot"
)

// qemuTarget is QEMU's microvm machine.
type qemuTarget struct {
	o                         Options
	s                         Subject
	initrd, kernel, transport string
	variant                   variant
}

// qemuTargets returns the peers.
func qemuTargets(o Options, s Subject, initrd string) (t []target, closer func(), err error) {
	if _, err := os.Stat(o.QEMU); err != nil {
		return nil, nil, fmt.Errorf("peer: %w (install the package qemu-system-x86, or measure without --peer)", err)
	}
	store, err := kernel.Open(filepath.Join(o.Store, "kernels"))
	if err != nil {
		return nil, nil, err
	}
	guest, err := store.Get(o.Kernel)
	if err != nil {
		return nil, nil, err
	}
	k, err := boot.OpenKernel(guest.Path, o.Root) // unpacked: QEMU enters it by PVH, as we do
	if err != nil {
		return nil, nil, err
	}
	for _, transport := range o.Transports {
		for _, v := range s.qemu {
			t = append(t, &qemuTarget{o: o, s: s, initrd: initrd, kernel: k.ELFPath(), transport: transport, variant: v})
		}
	}
	return t, func() { _ = k.Close() }, nil
}

func (q *qemuTarget) name() string { return named("qemu/"+q.transport, q.variant) }

func (q *qemuTarget) arguments() []string {
	machine := "microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on"
	if q.transport == "pci" {
		machine += ",pcie=on"
	}
	return append([]string{
		"-M", machine, "-cpu", "host", "-smp", "1", "-m", fmt.Sprint(q.o.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-global", "virtio-mmio.force-legacy=false",
		"-kernel", q.kernel, "-initrd", q.initrd, "-append", cmdlineOf(q.o, q.s),
	}, q.variant.args(q.transport)...)
}

// deviceModel is QEMU's name of a virtio device.
func deviceModel(kind, transport string) string {
	if transport == "pci" {
		return "virtio-" + kind + "-pci"
	}
	return "virtio-" + kind + "-device"
}

func (q *qemuTarget) run(ctx context.Context) (samples []Sample, err error) {
	c := exec.CommandContext(ctx, q.o.QEMU, q.arguments()...)
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		return nil, err
	}
	defer func() {
		_ = c.Process.Kill() // it may have powered off already
		_ = c.Wait()
		if err != nil && stderr.Len() > 0 {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes()))
		}
	}()
	return follow(out, q.s.tests(q.o.Tests), func() (counters, error) { return take(c.Process.Pid) })
}
