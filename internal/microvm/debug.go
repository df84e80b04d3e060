package microvm

import (
	"fmt"
	"net"

	"github.com/hvctl/hvctl/internal/gdbstub"
)

// listenGDB opens the socket that gdb is waited for on, if there is to be one.
func (v *VM) listenGDB() (net.Listener, error) {
	if v.cfg.VM.GDB == "" {
		return nil, nil
	}
	a, err := gdbstub.ParseAddress(v.cfg.VM.GDB)
	if err != nil {
		return nil, fmt.Errorf("--gdb: %w", err)
	}
	return a.Listen()
}

// serveGDB lets gdb at the machine for as long as it runs. With GDBWait the
// guest stands at its first instruction until gdb lets it go.
func (v *VM) serveGDB(g *guest, l net.Listener) {
	g.debugged = make(chan struct{})
	if l == nil {
		close(g.debugged)
		return
	}
	var first gdbstub.Target
	if v.cfg.VM.GDBWait {
		d, err := g.machine.Debug()
		if err != nil {
			v.log.Error("gdb: the guest is not held", "err", err)
		} else {
			first = d
		}
	}
	go func() {
		defer close(g.debugged)
		attach := func() (gdbstub.Target, error) { return g.machine.Debug() }
		if err := gdbstub.Serve(g.ctx, l, first, attach, v.log); err != nil {
			v.log.Error("gdb", "err", err)
		}
	}()
}
