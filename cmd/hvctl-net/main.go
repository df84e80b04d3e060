// Command hvctl-net is the user-mode network of one instance. The owner of the
// instance starts it, when such a network was asked for, with frames as
// descriptor 3 and a connected socket as descriptor 4; it lives as long as that
// socket's other end. As `hvctl-net cni VERB` it runs the plugins of a CNI network
// once, as standard input says. It is a program of its own so that nobody else carries the
// weight of a TCP/IP stack (docs/adr/0013-user-mode-network.md).
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"

	"github.com/hvctl/hvctl/internal/cninet"
	"github.com/hvctl/hvctl/internal/supervisor"
	"github.com/hvctl/hvctl/internal/usernet"
	"golang.org/x/sys/unix"
)

// heapLimit makes the garbage collector work harder instead of letting the
// process grow.
const heapLimit = 16 << 20

const (
	framesFD = 3
	ownerFD  = 4
)

func main() {
	debug.SetMemoryLimit(heapLimit)
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "hvctl-net: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "cni":
		return cninet.Serve(context.Background(), args[1], os.Stdin, os.Stdout)
	case len(args) != 1 || args[0] != "user":
		return errors.New("usage: hvctl-net user | cni add|check|del (started by the owner of an instance, not by hand)")
	}
	if err := unix.SetNonblock(framesFD, true); err != nil {
		return fmt.Errorf("frames (descriptor %d): %w", framesFD, err)
	}
	f := os.NewFile(ownerFD, "owner")
	owner, err := net.FileConn(f)
	_ = f.Close() // owner is a copy
	if err != nil {
		return fmt.Errorf("owner (descriptor %d): %w", ownerFD, err)
	}
	return usernet.Serve(owner, os.NewFile(framesFD, "frames"), supervisor.NewLogger())
}
