// Command hvprobe is the guest's side of `hvctl bench io`: the only process of
// a guest, started by the kernel. It measures the first disk and reports on the
// console, then powers off. Whoever reads the console takes counters when a
// line says so: after a mark comes a pause, in which nothing happens.
//
//	+NAME       a measurement is about to begin
//	.           it has ended
//	{...}       its figures: package internal/bench/io/probe, type Figures
//	-MESSAGE    it failed
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/bench/io/probe"
)

// settle is how long the guest is idle after a mark.
const settle = 50 * time.Millisecond

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "hvprobe: runs as the first process of a guest: see `hvctl bench io`")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Printf("-%v\n", err)
	}
	time.Sleep(settle)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // the kernel panics when its first process ends
}

func run() error {
	if err := unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	d, err := openDisk("/dev/vda")
	if err != nil {
		return err
	}
	for _, t := range probe.Chosen(os.Getenv(probe.TestsKey)) {
		if err := d.measure(t); err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	return nil
}

// measure runs t between two marks and reports.
func (d *disk) measure(t probe.Test) error {
	warm := t
	warm.Ops = max(t.Ops/10, 1)
	if _, err := d.run(warm); err != nil {
		return err
	}
	fmt.Printf("+%s\n", t.Name)
	time.Sleep(settle)
	took, err := d.run(t)
	if err != nil {
		return err
	}
	fmt.Println(".")
	time.Sleep(settle)
	b, err := json.Marshal(probe.Figures{Test: t.Name, Ops: t.Ops, Bytes: t.Size, Ns: took.Nanoseconds()})
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", b)
	return nil
}
