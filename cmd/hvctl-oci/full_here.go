//go:build full

package main

import (
	"context"
	"sync"

	"github.com/hvctl/hvctl/internal/criu"
	"github.com/hvctl/hvctl/internal/criu/swrk"
	"github.com/hvctl/hvctl/internal/systemd"
	"github.com/hvctl/hvctl/internal/systemd/bus"
)

// driver is CRIU on this host. This is the program hvctl-oci-full.
func driver() (criu.Driver, error) {
	t, err := swrk.Find(context.Background())
	if err != nil {
		return nil, err
	}
	return t, nil
}

// manager is the systemd that makes this caller's cgroups.
var manager = sync.OnceValues(func() (systemd.Manager, error) { return bus.New(), nil })
