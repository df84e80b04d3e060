package machine

import (
	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/kvm"
)

// doorbells registers ioeventfds: a guest's write to a doorbell then wakes the
// queue's worker without an exit to us. It satisfies virtio.Doorbells.
type doorbells struct{ vm *kvm.VM }

func (d doorbells) Add(addr uint64, size int, match *uint32, ev *eventfd.EventFD) error {
	return d.vm.AssignIOEventFD(ev.FD(), ioevent(addr, size, match))
}

func (d doorbells) Remove(addr uint64, size int, match *uint32, ev *eventfd.EventFD) error {
	return d.vm.DeassignIOEventFD(ev.FD(), ioevent(addr, size, match))
}

func ioevent(addr uint64, size int, match *uint32) kvm.IOEventFD {
	e := kvm.IOEventFD{Addr: addr, Len: uint32(size)}
	if match != nil {
		e.Match, e.DataMatch = true, uint64(*match)
	}
	return e
}
