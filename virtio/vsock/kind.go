package vsock

import (
	"errors"

	"github.com/hvctl/hvctl/virtio"
)

// Kind is the socket device, for machines whose owner does not itself use the
// device: the bridge is then the way in and out.
var Kind = virtio.Kind{
	Name: "vsock",
	Help: "stream sockets between guest and host",
	Options: []virtio.Option{
		{Key: "cid", Help: "the guest's address, 3 or more; default 3"},
		{Key: "path", Help: "unix socket that leads to the guest's ports; the guest's connections to port P go to PATH_P"},
	},
	New: func(a virtio.Args) (virtio.Device, error) {
		cid, err := a.Uint("cid", 3, hostCID+1, 1<<32-2)
		if err != nil {
			return nil, err
		}
		d, err := New(Options{CID: cid, Log: a.Logger()})
		if err != nil {
			return nil, err
		}
		path := a.String("path", "")
		if path == "" {
			return d, nil
		}
		b, err := NewBridge(d, path)
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		return &bridged{d, b}, nil
	},
}

// bridged is a device that owns its bridge.
type bridged struct {
	*Device
	b *Bridge
}

func (d *bridged) Close() error { return errors.Join(d.b.Close(), d.Device.Close()) }
