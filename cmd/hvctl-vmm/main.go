// Command hvctl-vmm owns one microVM: it is started by hvctl with the
// instance's state directory (or by hvctl-oci, in a container: package ocivm) and lives as long as the VM does. It is a program
// of its own so that a running VM does not carry the command line's weight
// (docs/adr/0002-one-small-owner-process.md).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"runtime/debug"

	"github.com/hvctl/hvctl/internal/confine"
	"github.com/hvctl/hvctl/internal/hostnet"
	"github.com/hvctl/hvctl/internal/microvm"
	"github.com/hvctl/hvctl/internal/ocivm"
	"github.com/hvctl/hvctl/internal/ocivm/inside"
	"github.com/hvctl/hvctl/internal/supervisor"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/lazy"
)

// heapLimit makes the garbage collector work harder instead of letting the
// VMM grow: its live heap is 1 to 2 MiB.
const heapLimit = 12 << 20

func main() {
	debug.SetMemoryLimit(heapLimit)
	// Ours go through slog. What is left are lines of the FUSE library's, as
	// many as a guest likes.
	stdlog.SetOutput(io.Discard)
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "hvctl-vmm: %v\n", err)
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	switch {
	case len(args) == 1 && args[0] == ocivm.VerbOwn:
		return inside.Own(context.Background())
	case len(args) == 1 && args[0] == ocivm.VerbPod:
		return inside.OwnPod(context.Background())
	case len(args) == 1 && (args[0] == ocivm.VerbExec || args[0] == ocivm.VerbJoin):
		return inside.Exec(args[0] == ocivm.VerbJoin)
	}
	if err := own(args); err != nil {
		return workload.ExitOwnFailure, err
	}
	return 0, nil
}

// own owns an instance of hvctl's.
func own(args []string) error {
	log := supervisor.NewLogger()
	switch {
	case len(args) == 2 && args[0] == "cleanup":
		// What an owner that was killed left on the host.
		return errors.Join(
			hostnet.Cleanup(context.Background(), hostnet.Options{Root: args[1], Log: log}),
			hostnet.CleanupCNI(context.Background(), "", args[1]),
		)
	case len(args) == 1 && args[0] == hostnet.VerbKeep:
		return hostnet.Keep(confineKeeper, log)
	case len(args) == 2 && args[0] == microvm.VerbFaults:
		return lazy.Serve(args[1], log)
	case len(args) == 1:
		return supervisor.Run(context.Background(), args[0], func(cfg *workload.Config) (workload.Runtime, error) {
			v := microvm.New(cfg, args[0], log)
			v.Confine(confine.Apply)
			return v, nil
		})
	}
	return errors.New("usage: hvctl-vmm STATEDIR | cleanup ROOT (started by hvctl, not by hand)")
}
