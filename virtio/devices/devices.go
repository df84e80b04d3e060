// Package devices is the one list of device kinds that hvctl has. A new device
// is one line here.
package devices

import (
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/balloon"
	"github.com/hvctl/hvctl/virtio/blk"
	"github.com/hvctl/hvctl/virtio/console"
	"github.com/hvctl/hvctl/virtio/fs"
	"github.com/hvctl/hvctl/virtio/net"
	"github.com/hvctl/hvctl/virtio/pmem"
	"github.com/hvctl/hvctl/virtio/rng"
	"github.com/hvctl/hvctl/virtio/vsock"
)

// Registry returns every device kind.
func Registry() *virtio.Registry {
	return virtio.NewRegistry(
		balloon.Kind,
		blk.Kind,
		console.Kind,
		fs.Kind,
		net.Kind,
		pmem.Kind,
		rng.Kind,
		vsock.Kind,
	)
}
