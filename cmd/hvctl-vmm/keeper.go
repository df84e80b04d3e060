package main

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/confine"
	"github.com/hvctl/hvctl/internal/hostnet"
)

// confineKeeper takes from the keeper of a VM's network what that does not need. One
// of a CNI network runs plugins, which may do anything, and hears nothing from a
// guest.
func confineKeeper(k hostnet.Keeping) error {
	if k.CNI {
		return nil
	}
	const own = confine.Read | confine.Write | confine.Create
	p := confine.Policy{
		Files:        []confine.Rule{{Path: k.Dir, Access: own}},
		Sockets:      []int{unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK},
		Capabilities: []uint{unix.CAP_NET_ADMIN},
	}
	for _, dir := range k.Reads {
		p.Files = append(p.Files, confine.Rule{Path: dir, Access: confine.Read})
	}
	if _, err := confine.Apply(p); err != nil {
		return fmt.Errorf("confine the keeper of the network: %w", err)
	}
	return nil
}
