package pmem

import "github.com/hvctl/hvctl/virtio"

// Kind is the device.
var Kind = virtio.Kind{
	Name: "pmem",
	Help: "a file as memory that guests share with the host's page cache",
	Options: []virtio.Option{
		{Key: "path", Help: "regular file"},
		{Key: "ro", Help: "on: the guest cannot write"},
	},
	New: func(a virtio.Args) (virtio.Device, error) {
		ro, err := a.Bool("ro", false)
		if err != nil {
			return nil, err
		}
		return New(Options{Path: a.String("path", ""), ReadOnly: ro})
	},
}
