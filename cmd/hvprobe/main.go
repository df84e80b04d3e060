// Command hvprobe is the guest's side of `hvctl bench io` and
// `hvctl bench net`: the only process of a guest, started by the kernel. It
// measures the first disk, or the first network interface, and reports on the
// console, then powers off. Whoever reads the console takes counters when a
// line says so: after a mark comes a pause, in which nothing happens.
//
//	+NAME       a measurement is about to begin
//	.           it has ended
//	{...}       its figures: package internal/bench/device/probe, type Figures
//	-MESSAGE    it failed
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/bench/device/probe"
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
	list := os.Getenv(probe.TestsKey)
	if os.Getenv(probe.NetKey) != "" {
		n, err := openNetwork()
		if err != nil {
			return err
		}
		for _, t := range probe.Chosen(probe.NetTests, list) {
			warm := t
			warm.Ops = max(t.Ops/10, 1)
			err := measure(probe.Figures{Test: t.Name, Ops: t.Ops, Bytes: t.Bytes},
				func() (time.Duration, error) { return n.run(warm) }, func() (time.Duration, error) { return n.run(t) })
			if err != nil {
				return fmt.Errorf("%s: %w", t.Name, err)
			}
		}
		return nil
	}
	d, err := openDisk("/dev/vda")
	if err != nil {
		return err
	}
	for _, t := range probe.Chosen(probe.Tests, list) {
		warm := t
		warm.Ops = max(t.Ops/10, 1)
		err := measure(probe.Figures{Test: t.Name, Ops: t.Ops, Bytes: t.Size},
			func() (time.Duration, error) { return d.run(warm) }, func() (time.Duration, error) { return d.run(t) })
		if err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	return nil
}

// measure does a test between two marks, after a warming up, and reports.
func measure(f probe.Figures, warm, test func() (time.Duration, error)) error {
	if _, err := warm(); err != nil {
		return err
	}
	fmt.Printf("+%s\n", f.Test)
	time.Sleep(settle)
	took, err := test()
	if err != nil {
		return err
	}
	fmt.Println(".")
	time.Sleep(settle)
	f.Ns = took.Nanoseconds()
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n", b)
	return nil
}
