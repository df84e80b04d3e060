//go:build !criu

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/criu"
	"golang.org/x/sys/unix"
)

// driver becomes the program that drives CRIU, which is this one built with the
// tag criu and lies beside it: what it links for that would cost every start of
// this one.
func driver() (criu.Driver, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	program := filepath.Join(filepath.Dir(self), "hvctl-oci-criu")
	err = unix.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ())
	return nil, fmt.Errorf("%w: %s, which drives it: %w; install it beside hvctl-oci", criu.ErrMissing, program, err)
}
