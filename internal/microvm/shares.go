package microvm

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/fs"
	"github.com/hvctl/hvctl/virtio/fs/hostdir"
)

// shareTag is the name by which the guest mounts the i-th of the mounts.
const shareTag = "share%d"

// isShare tells whether m shows the guest a directory or file of the host.
func isShare(m specs.Mount) bool { return m.Type == "bind" }

// shareDevices makes a file system device for every shared directory, and
// notes in v.shared what the agent is to do with it.
func (v *VM) shareDevices() ([]machine.Device, error) {
	var devs []machine.Device
	v.shared, v.shares = nil, map[string]*fs.Device{}
	for i, m := range v.cfg.Spec.Mounts {
		if !isShare(m) {
			continue
		}
		tag := fmt.Sprintf(shareTag, i)
		dev, err := fs.New(fs.Options{Tag: tag, Dir: hostdir.Options{
			Path: m.Source, ReadOnly: slices.Contains(m.Options, "ro"),
			Complete: v.heir || v.cfg.VM.Receive != nil, // the guest goes on, and its source would take it back
		}})
		if err != nil {
			return nil, err
		}
		devs = append(devs, machine.Device{Device: dev, Args: virtio.Args{ID: tag}})
		v.shares[m.Destination] = dev
		v.shared = append(v.shared, guestproto.Mount{
			Destination: m.Destination, Type: "virtiofs", Source: tag, File: dev.Only(), Options: guestOptions(m.Options),
		})
	}
	return devs, nil
}

// bindOptions say how a bind mount is made and how it propagates, which has no
// meaning for a mount inside the guest.
var bindOptions = []string{"bind", "rbind", "private", "rprivate"}

func guestOptions(options []string) []string {
	return slices.DeleteFunc(slices.Clone(options), func(o string) bool { return slices.Contains(bindOptions, o) })
}

// writesShares tells whether the guest may have unwritten data of the host's.
func (v *VM) writesShares() bool {
	return v.cfg.Rootfs.Dir != "" || slices.ContainsFunc(v.cfg.Spec.Mounts, func(m specs.Mount) bool { return isShare(m) && !slices.Contains(m.Options, "ro") })
}
