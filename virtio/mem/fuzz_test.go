package mem_test

import (
	"encoding/binary"
	"testing"

	"github.com/hvctl/hvctl/virtio/mem"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

// model is what the device is held to: a set of blocks, and how many there may be.
type model struct {
	have      [blocks]bool
	requested int
}

func (m *model) count(first, n int) (have int) {
	for _, b := range m.have[first : first+n] {
		if b {
			have++
		}
	}
	return have
}

// answer is what §5.15.6 has the device say.
func (m *model) answer(kind uint16, addr uint64, n int) (resp, state uint16) {
	if kind == unplugAll {
		m.have = [blocks]bool{}
		return ack, 0
	}
	first := int64(addr-uint64(region)) / block
	if addr < uint64(region) || addr%block != 0 || first >= blocks || n == 0 || int(first)+n > blocks {
		return wrong, 0
	}
	have := m.count(int(first), n)
	set := func(to bool) {
		for i := range n {
			m.have[int(first)+i] = to
		}
	}
	switch {
	case kind == ask && have == n:
		return ack, plugged
	case kind == ask && have == 0:
		return ack, unplugged
	case kind == ask:
		return ack, mixed
	case kind == plug && have == 0 && m.count(0, blocks)+n > m.requested:
		return nack, 0
	case kind == plug && have == 0:
		set(true)
		return ack, 0
	case kind == unplug && have == n:
		set(false)
		return ack, 0
	}
	return wrong, 0
}

// FuzzRequests holds the device to the model, whatever is requested of whom.
func FuzzRequests(f *testing.F) {
	f.Add([]byte{9, 50, 0, 0, 0, 10, 1, 5, 0, 3, 2, 20, 2, 0, 0})
	f.Add([]byte{9, 100, 0, 0, 0, 100, 1, 1, 1, 1, 3, 1, 3, 0, 2, 0x13, 0, 1, 0x20, 0, 255})
	f.Fuzz(func(t *testing.T, ops []byte) {
		g := newRegion(t)
		dev := mem.New(g.Pluggable())
		d := virtiotest.Start(t, dev, virtiotest.Options{})
		var m model
		for ; len(ops) >= 3; ops = ops[3:] {
			kind, n := uint16(ops[0]&0xf), int(ops[2])
			addr := uint64(region) + uint64(ops[1])*block
			switch ops[0] >> 4 { // mostly where blocks are
			case 1:
				addr += 4096
			case 2:
				addr = binary.LittleEndian.Uint64([]byte{ops[1], ops[2], ops[1], ops[2], ops[1], ops[2], ops[1], ops[2]})
			case 3:
				n = 1<<16 - 1 - n
			case 4:
				addr -= 200 * block
			}
			if kind == 9 {
				m.requested = min(int(ops[1]), blocks)
				must(t, dev.Request(uint64(m.requested)*block))
				continue
			}
			resp, state := raw(d, kind, addr, n)
			if r, s := m.answer(kind, addr, n); r != resp || s != state {
				t.Fatalf("request %d at %#x for %d: answer %d and %d, want %d and %d", kind, addr, n, resp, state, r, s)
			}
		}
		if s := dev.State(); s.Plugged != uint64(m.count(0, blocks))*block {
			t.Errorf("%#x plugged in, want %d blocks", s.Plugged, m.count(0, blocks))
		}
	})
}
