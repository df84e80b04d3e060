package vsock

import (
	"errors"
	"fmt"

	"github.com/hvctl/hvctl/virtio"
)

// Values of the option backend.
const (
	BackendUser  = "user"  // Device: needs nothing of the host
	BackendVhost = "vhost" // Vhost: needs /dev/vhost-vsock
)

// Kind is the socket device, for machines whose owner does not itself use the
// device: the bridge is then the way in and out.
var Kind = virtio.Kind{
	Name: "vsock",
	Help: "stream sockets between guest and host",
	Options: []virtio.Option{
		{Key: "backend", Help: "who serves it: user, this process, or vhost, the kernel, by AF_VSOCK on the host; default user"},
		{Key: "cid", Help: "the guest's address, 3 or more; default 3"},
		{Key: "path", Help: "backend=user: unix socket that leads to the guest's ports; the guest's connections to port P go to PATH_P"},
	},
	New: func(a virtio.Args) (virtio.Device, error) {
		cid, err := a.Uint("cid", 3, hostCID+1, 1<<32-2)
		if err != nil {
			return nil, err
		}
		o, path := Options{CID: cid, Log: a.Logger()}, a.String("path", "")
		switch backend := a.String("backend", BackendUser); backend {
		case BackendUser:
		case BackendVhost:
			if path != "" {
				return nil, fmt.Errorf("%w: path=%s goes with backend=user; with backend=vhost programs on the host use AF_VSOCK, CID %d", virtio.ErrArgs, path, cid)
			}
			return NewVhost(o)
		default:
			return nil, fmt.Errorf("%w: backend=%q; there are user and vhost", virtio.ErrArgs, backend)
		}
		d, err := New(o)
		if err != nil {
			return nil, err
		}
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
