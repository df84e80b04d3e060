package workload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Plugger is a Runtime whose devices can come and go while it runs.
type Plugger interface {
	// Devices lists all devices, those that were there from the start first.
	Devices(ctx context.Context) ([]Device, error)
	// Plug adds a device and returns when a driver in the guest has taken it. It
	// owns the files, in any case.
	Plug(ctx context.Context, r PlugRequest) (Device, error)
	// Unplug asks the guest for a device, and returns when that is gone.
	Unplug(ctx context.Context, r UnplugRequest) error
}

// Device is one device of a VM.
type Device struct {
	ID      string `json:"id"`
	Kind    string `json:"kind"`    // blk, net, ...
	Slot    int    `json:"slot"`    // on PCI bus 0; 0: it is on no bus
	Plugged bool   `json:"plugged"` // while the guest ran: it can be unplugged
	InUse   bool   `json:"inUse"`   // a driver in the guest has taken it
}

// PlugRequest asks for one device. The client opens what it is made of.
type PlugRequest struct {
	ID   string   `json:"id,omitempty"` // 1 to 20 letters, digits, _ and -; empty: one is chosen
	Disk *Disk    `json:"disk,omitempty"`
	Net  *PlugNet `json:"net,omitempty"`
	// TimeoutSeconds is how long the guest may take; 0 means PlugTimeout.
	TimeoutSeconds int `json:"timeoutSeconds,omitempty"`

	// Files are of a disk its image, opened for reading and, unless it is read-only,
	// writing, and with the cache none the same once more with O_DIRECT; of a network
	// its tap.
	Files []*os.File `json:"-"`
}

// PlugNet is a network interface to plug in, a tap that the client has opened.
type PlugNet struct {
	Interface string `json:"interface"` // its name, for messages
	MAC       string `json:"mac"`
	MTU       int    `json:"mtu,omitempty"` // 0: says nothing to the guest
}

// UnplugRequest asks for a device back.
type UnplugRequest struct {
	ID string `json:"id"`
	// Force takes it when the guest has not given it back in time.
	Force bool `json:"force,omitempty"`
	// TimeoutSeconds is how long the guest may take; 0 means PlugTimeout.
	TimeoutSeconds int `json:"timeoutSeconds,omitempty"`
}

// PlugTimeout is how many seconds a guest may take to do its part, and
// MaxPlugTimeout how many can be asked for.
const (
	PlugTimeout    = 30
	MaxPlugTimeout = 3600
)

// FileCount is how many files come with the request.
func (r *PlugRequest) FileCount() int {
	if r.Disk != nil && r.Disk.Cache == "none" {
		return 2
	}
	return 1
}

// validPlugID judges PlugRequest.ID.
func validPlugID(id string) bool {
	const chars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
	return len(id) <= 20 && !strings.ContainsFunc(id, func(c rune) bool { return !strings.ContainsRune(chars, c) })
}

// Check refuses what no backend can do.
func (r *PlugRequest) Check() error {
	switch {
	case (r.Disk == nil) == (r.Net == nil):
		return errors.New("want one device: a disk or a network")
	case r.ID != "" && !validPlugID(r.ID):
		return fmt.Errorf("a device cannot be called %q; want 1 to 20 letters, digits, _ and -", r.ID)
	case r.Disk != nil && r.Disk.Engine == "uring":
		return errors.New("engine=uring: a VM makes no io_uring once its guest runs; a disk that is plugged in has the plain engine")
	}
	return checkTimeout(r.TimeoutSeconds)
}

// Check refuses what no backend can do.
func (r *UnplugRequest) Check() error {
	if r.ID == "" {
		return errors.New("no device named")
	}
	return checkTimeout(r.TimeoutSeconds)
}

func checkTimeout(seconds int) error {
	if seconds < 0 || seconds > MaxPlugTimeout {
		return fmt.Errorf("a timeout of %d s: want up to %d", seconds, MaxPlugTimeout)
	}
	return nil
}
