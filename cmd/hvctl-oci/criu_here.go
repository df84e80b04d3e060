//go:build criu

package main

import (
	"context"

	"github.com/hvctl/hvctl/internal/criu"
	"github.com/hvctl/hvctl/internal/criu/swrk"
)

// driver is CRIU on this host. This is the program hvctl-oci-criu.
func driver() (criu.Driver, error) {
	t, err := swrk.Find(context.Background())
	if err != nil {
		return nil, err
	}
	return t, nil
}
