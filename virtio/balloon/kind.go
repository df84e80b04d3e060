package balloon

import (
	"fmt"

	"github.com/hvctl/hvctl/virtio"
)

// Kind is the balloon.
var Kind = virtio.Kind{
	Name: "balloon",
	Help: "memory that the guest gives back",
	Options: []virtio.Option{
		{Key: "target", Help: "bytes to take from the guest at first"},
		{Key: "oom", Help: "on, or off: the guest may not take pages back when it is out of memory"},
		{Key: "reporting", Help: "on, or off: the guest does not tell which pages are free"},
	},
	New: func(a virtio.Args) (virtio.Device, error) {
		target, err := a.Uint("target", 0, 0, 1<<44)
		if err != nil {
			return nil, err
		}
		o := Options{Target: target}
		for key, off := range map[string]*bool{"oom": &o.NoOOM, "reporting": &o.NoReporting} {
			switch v := a.String(key, "on"); v {
			case "on":
			case "off":
				*off = true
			default:
				return nil, fmt.Errorf("%w: %s: %s=%q is neither on nor off", virtio.ErrArgs, a.ID, key, v)
			}
		}
		return New(o), nil
	},
}
