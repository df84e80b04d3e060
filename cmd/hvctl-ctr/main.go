// Command hvctl-ctr owns one container: it is started by hvctl with the
// instance's state directory, in a mount namespace of its own, and lives as
// long as the container does.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/hvctl/hvctl/internal/hostnet"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/nscontainer"
	"github.com/hvctl/hvctl/internal/supervisor"
	"github.com/hvctl/hvctl/internal/userns"
	"github.com/hvctl/hvctl/internal/workload"
)

// heapLimit makes the garbage collector work harder instead of letting the
// owner grow: its live heap is 1 to 2 MiB.
const heapLimit = 12 << 20

func main() {
	debug.SetMemoryLimit(heapLimit)
	err := userns.Enter()
	if err == nil {
		err = run(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "hvctl-ctr: %v\n", err)
		os.Exit(workload.ExitOwnFailure)
	}
}

func run(args []string) error {
	log := supervisor.NewLogger()
	switch {
	case len(args) == 2 && args[0] == "cleanup":
		// What an owner that was killed left on the host. Its interface may live
		// as long as something keeps the namespace, so locks say who lives.
		s, err := instance.OpenStore(args[1])
		if err != nil {
			return err
		}
		return errors.Join(
			hostnet.Cleanup(context.Background(), hostnet.Options{Root: args[1], Log: log, Alive: s.Alive}),
			hostnet.CleanupCNI(context.Background(), "", args[1]),
		)
	case len(args) == 1:
		return supervisor.Run(context.Background(), args[0], func(cfg *workload.Config) (workload.Runtime, error) {
			return nscontainer.New(cfg, args[0], log)
		})
	}
	return errors.New("usage: hvctl-ctr STATEDIR | cleanup ROOT (started by hvctl, not by hand)")
}
