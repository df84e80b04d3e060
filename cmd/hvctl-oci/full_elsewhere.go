//go:build !full

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/internal/criu"
	"github.com/hvctl/hvctl/internal/systemd"
	"golang.org/x/sys/unix"
)

// driver becomes the program that drives CRIU.
func driver() (criu.Driver, error) { return nil, becomeFull(criu.ErrMissing) }

// manager becomes the program that speaks to systemd.
func manager() (systemd.Manager, error) { return nil, becomeFull(systemd.ErrMissing) }

// becomeFull executes the program that can do more: this one built with the tag
// full, which lies beside it. What it links for that would cost every start of
// this one. It returns only if that cannot be done.
func becomeFull(without error) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program := filepath.Join(filepath.Dir(self), "hvctl-oci-full")
	name := program
	if strings.HasSuffix(os.Args[0], vmSuffix) {
		name += vmSuffix
	}
	err = unix.Exec(program, append([]string{name}, os.Args[1:]...), os.Environ())
	return fmt.Errorf("%w: %s, which does that: %w; install it beside hvctl-oci", without, program, err)
}
