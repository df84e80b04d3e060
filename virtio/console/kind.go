package console

import (
	"fmt"

	"github.com/hvctl/hvctl/virtio"
)

// Kind is the console device. Args.Files may have "in" and "out"; the device
// reads and writes them, and their lender closes them.
var Kind = virtio.Kind{
	Name: "console",
	Help: "console for the guest (hvc0)",
	Options: []virtio.Option{
		{Key: "full", Help: "what to do with output nobody takes: drop (the oldest) or wait"},
		{Key: "buffer", Help: "bytes of output that may wait, 256 to 16777216"},
		{Key: "columns", Help: "width of the terminal"},
		{Key: "rows", Help: "height of the terminal"},
	},
	New: func(a virtio.Args) (virtio.Device, error) {
		var o Options
		switch v := a.String("full", "drop"); v {
		case "drop":
		case "wait":
			o.Wait = true
		default:
			return nil, fmt.Errorf("%w: %s: full=%q is neither drop nor wait", virtio.ErrArgs, a.ID, v)
		}
		buffer, err := a.Uint("buffer", defaultBuffer, minBuffer, maxBuffer)
		if err != nil {
			return nil, err
		}
		columns, err := a.Uint("columns", 0, 0, 0xffff)
		if err != nil {
			return nil, err
		}
		rows, err := a.Uint("rows", 0, 0, 0xffff)
		if err != nil {
			return nil, err
		}
		o.Buffer, o.Columns, o.Rows = int(buffer), uint16(columns), uint16(rows)
		if f := a.Files["in"]; f != nil {
			o.In = f
		}
		if f := a.Files["out"]; f != nil {
			o.Out = f
		}
		return New(o)
	},
}
