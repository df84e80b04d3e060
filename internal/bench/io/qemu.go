package io

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

// qemuTarget is QEMU's microvm machine with a disk served by an iothread.
type qemuTarget struct {
	o              Options
	initrd, kernel string
	transport      string
	cache          string
	poll           bool // the iothread polls before it sleeps, which is QEMU's default
}

// qemuTargets returns the peers: each transport and cache, with and without the
// iothread's polling, which one processor can only lose by.
func qemuTargets(o Options, initrd string) (t []target, closer func(), err error) {
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
		for _, cache := range []string{"none", "writeback"} {
			for _, poll := range []bool{true, false} {
				t = append(t, &qemuTarget{o: o, initrd: initrd, kernel: k.ELFPath(), transport: transport, cache: cache, poll: poll})
			}
		}
	}
	return t, func() { _ = k.Close() }, nil
}

func (q *qemuTarget) name() string {
	n := "qemu/" + q.transport + ",cache=" + q.cache
	if !q.poll {
		n += ",nopoll"
	}
	return n
}

func (q *qemuTarget) arguments() []string {
	machine, device, thread := "microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on", "virtio-blk-device", "iothread,id=io"
	if q.transport == "pci" {
		machine += ",pcie=on"
		device = "virtio-blk-pci"
	}
	if !q.poll {
		thread += ",poll-max-ns=0"
	}
	return []string{
		"-M", machine, "-cpu", "host", "-smp", "1", "-m", fmt.Sprint(q.o.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-global", "virtio-mmio.force-legacy=false",
		"-kernel", q.kernel, "-initrd", q.initrd, "-append", q.o.cmdline(),
		"-object", thread,
		"-drive", "id=disk,if=none,format=raw,aio=io_uring,file=" + q.o.Disk + ",cache=" + q.cache,
		"-device", device + ",drive=disk,iothread=io,num-queues=1",
	}
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
	return follow(out, q.o.tests(), func() (counters, error) { return take(c.Process.Pid) })
}
