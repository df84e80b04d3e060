package net

import (
	"errors"
	"fmt"
	stdnet "net"
	"os"

	"github.com/hvctl/hvctl/internal/vhost"
	"github.com/hvctl/hvctl/virtio"
)

// Kind is the network device. Its backend is Args.Files["tap"]: a tap with a
// 12-byte header, or a socket that keeps frames apart; more queue pairs have the
// names of QueueFile. Or it is Args.Files["socket"], whose peer takes no
// segments (NewSocket).
var Kind = virtio.Kind{
	Name: "net",
	Help: "Ethernet through a tap",
	Options: []virtio.Option{
		{Key: "mac", Help: "the guest's address; the driver chooses without it"},
		{Key: "mtu", Help: "MTU of the link, 68 to 65521"},
		{Key: "vhost", Help: "on has the host's kernel serve the queues (/dev/vhost-net)"},
		{Key: "link", Help: "off starts with the cable pulled out"},
	},
	New: fromArgs,
}

// VhostPath is the device node that the option vhost needs.
const VhostPath = vhost.NetPath

// QueueFile is the name in Args.Files of the i-th queue pair's tap.
func QueueFile(i int) string {
	if i == 0 {
		return "tap"
	}
	return fmt.Sprintf("tap%d", i)
}

func fromArgs(a virtio.Args) (virtio.Device, error) {
	var o Options
	fail := func(err error) (virtio.Device, error) {
		for _, b := range o.Backends {
			err = errors.Join(err, b.Close())
		}
		for _, k := range o.Kernel {
			err = errors.Join(err, k.Close())
		}
		return nil, err
	}
	if s, ok := a.Values["mac"]; ok {
		mac, err := stdnet.ParseMAC(s)
		if err != nil || len(mac) != len(o.MAC) {
			return nil, fmt.Errorf("%w: %s: mac=%q is no Ethernet address", virtio.ErrArgs, a.ID, s)
		}
		o.MAC = hwAddr(mac)
	}
	mtu, err := a.Uint("mtu", 0, 68, 65521)
	if err != nil {
		return nil, err
	}
	o.MTU = uint16(mtu)
	up, err := a.Bool("link", true)
	if err != nil {
		return nil, err
	}
	o.LinkDown = !up
	var files []*os.File
	for f := a.Files[QueueFile(0)]; f != nil; f = a.Files[QueueFile(len(files))] {
		files = append(files, f)
	}
	if f := a.Files["socket"]; f != nil && len(files) == 0 {
		b, err := NewSocket(f)
		if err != nil {
			return nil, err
		}
		o.Backends = append(o.Backends, b)
		return New(o)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: %s: no tap was given", virtio.ErrArgs, a.ID)
	}
	for _, f := range files {
		b, err := NewFile(f)
		if err != nil {
			return fail(err)
		}
		o.Backends = append(o.Backends, b)
	}
	vhosts, err := a.Bool("vhost", false)
	for i := 0; vhosts && i < len(o.Backends) && err == nil; i++ {
		var k *vhost.Net
		if k, err = vhost.OpenNet(); err == nil {
			o.Kernel = append(o.Kernel, k)
		}
	}
	if err != nil {
		return fail(fmt.Errorf("%w: %s: vhost=on: %w; load it as root (modprobe vhost_net), or leave it to this process", virtio.ErrArgs, a.ID, err))
	}
	return New(o)
}
