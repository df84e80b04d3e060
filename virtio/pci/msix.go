package pci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/hvctl/hvctl/internal/eventfd"
	pcibus "github.com/hvctl/hvctl/internal/pci"
	"github.com/hvctl/hvctl/virtio"
)

// MSI is one message-signalled interrupt. Signal may be called from any
// goroutine; the others never overlap. None blocks.
type MSI interface {
	// Route sets the message that Signal delivers, and unmasks. It is called
	// only when the guest has unmasked the entry and something changed.
	Route(addr uint64, data uint32) error
	// Mask stops Signal from having an effect until the next Route.
	Mask() error
	Signal() error
	Close() error
}

// KernelMSI is implemented by interrupts that the kernel can raise by itself.
type KernelMSI interface {
	MSI
	// Bind makes signals of ev deliver the message without a call of Signal
	// for as long as there is a route; at other times they stay in ev. Several
	// eventfds may be bound, each to one interrupt. After an error ev is not
	// bound, and Signal is the way. It does not overlap Route and the others.
	Bind(ev *eventfd.EventFD) error
	// Unbind undoes Bind: when it returns the kernel delivers nothing for ev
	// any more. One that is not bound is no error.
	Unbind(ev *eventfd.EventFD) error
}

// MSIAllocator makes interrupts, masked at first.
type MSIAllocator interface {
	NewMSI() (MSI, error)
}

const (
	capMSIX      = 0x11
	msixControl  = 2 // offset of Message Control in the capability
	controlMask  = 1 << 14
	controlOn    = 1 << 15
	entryBytes   = 16
	entryMasked  = 1
	entryAddr    = 0
	entryData    = 8
	entryControl = 12
)

// msix is the MSI-X capability, table and pending bits (PCI 3.0, 6.8.2).
type msix struct {
	fn  *pcibus.Function
	at  int         // of the capability
	on  atomic.Bool // enabled, whether or not masked
	log *slog.Logger

	warned, unbound sync.Once

	mu      sync.RWMutex // guards what follows; taken before the function's lock
	entries []entry
}

// entry is one row of the table.
type entry struct {
	msg     message
	control uint32
	msi     MSI
	live    bool    // enabled, neither entry nor function masked: msi is routed to sent
	sent    message // last given to Route
	pending atomic.Bool
}

type message struct {
	addr uint64
	data uint32
}

// newMSIX adds the capability to fn.
func newMSIX(fn *pcibus.Function, n int, alloc MSIAllocator, log *slog.Logger) (*msix, error) {
	m := &msix{fn: fn, log: log, entries: make([]entry, n)}
	body := binary.LittleEndian.AppendUint16(nil, uint16(n-1))
	body = binary.LittleEndian.AppendUint32(body, offTable|barIndex)
	body = binary.LittleEndian.AppendUint32(body, offPBA|barIndex)
	mask := binary.LittleEndian.AppendUint16(nil, controlOn|controlMask)
	at, err := fn.AddCapability(capMSIX, body, mask, m)
	if err != nil {
		return nil, err
	}
	m.at = at
	for i := range m.entries {
		e := &m.entries[i]
		e.control = entryMasked
		if e.msi, err = alloc.NewMSI(); err != nil {
			return nil, errors.Join(fmt.Errorf("MSI-X vector %d: %w", i, err), m.close())
		}
	}
	return m, nil
}

func (m *msix) len() int { return len(m.entries) }

// enabled reports whether the driver uses MSI-X at all.
func (m *msix) enabled() bool { return m.on.Load() }

// close gives the interrupts back.
func (m *msix) close() (err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.entries {
		e := &m.entries[i]
		if e.msi != nil {
			err = errors.Join(err, e.msi.Close())
		}
		e.msi, e.live = nil, false
	}
	return err
}

// signal raises vector v, or remembers it while it is masked. NO_VECTOR, and
// anything while MSI-X is off, is dropped.
func (m *msix) signal(v uint16) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if int(v) >= len(m.entries) || !m.on.Load() {
		return nil
	}
	e := &m.entries[v]
	if !e.live {
		e.pending.Store(true)
		return nil
	}
	return e.msi.Signal()
}

// bind has the kernel raise vector v for signals of call, where it can. With
// NO_VECTOR and where it cannot, whoever waits on call signals instead.
func (m *msix) bind(v uint16, call *eventfd.EventFD) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.kernel(v); k != nil {
		if err := k.Bind(call); err != nil {
			m.unbound.Do(func() { m.log.Warn("interrupts pass through the VMM", "err", err) })
		}
	}
}

func (m *msix) unbind(v uint16, call *eventfd.EventFD) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.kernel(v); k != nil {
		if err := k.Unbind(call); err != nil {
			m.unbound.Do(func() { m.log.Warn("interrupt not taken back from the kernel", "err", err) })
		}
	}
}

// kernel returns vector v if the kernel can raise it, else nil. mu is held.
func (m *msix) kernel(v uint16) KernelMSI {
	if int(v) >= len(m.entries) {
		return nil
	}
	k, _ := m.entries[v].msi.(KernelMSI)
	return k
}

// BeforeRead has nothing to refresh.
func (m *msix) BeforeRead(int, int) {}

// AfterWrite follows a write of Message Control.
func (m *msix) AfterWrite(int, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.follow()
}

// follow is update after a guest's write. A message that the host refuses is the
// guest's, so it costs one log line in all; the vector stays masked. mu is held.
func (m *msix) follow() {
	if err := m.update(); err != nil {
		m.warned.Do(func() { m.log.Warn("MSI-X message refused", "err", err) })
	}
}

// update makes every entry follow the table and Message Control, which is read
// under the lock: the last of several writers decides. mu is held.
func (m *msix) update() (err error) {
	var b [2]byte
	m.fn.Config(m.at+msixControl, b[:])
	control := binary.LittleEndian.Uint16(b[:])
	m.on.Store(control&controlOn != 0)
	for i := range m.entries {
		err = errors.Join(err, m.entries[i].update(control))
	}
	return err
}

func (e *entry) update(control uint16) error {
	live := control&(controlOn|controlMask) == controlOn && e.control&entryMasked == 0 && e.msi != nil
	switch {
	case !live && e.live:
		e.live = false
		return e.msi.Mask()
	case live && (!e.live || e.msg != e.sent):
		if err := e.msi.Route(e.msg.addr, e.msg.data); err != nil {
			return err // stays masked: interrupts are kept pending
		}
		e.live, e.sent = true, e.msg
		if e.pending.Swap(false) {
			return e.msi.Signal()
		}
	}
	return nil
}

// readTable answers 32- and 64-bit reads of the table.
func (m *msix) readTable(off uint64, data []byte) {
	eachWord(off, data, func(off uint64, w []byte) {
		i := off / entryBytes
		m.mu.RLock()
		defer m.mu.RUnlock()
		if i < uint64(len(m.entries)) {
			binary.LittleEndian.PutUint32(w, m.entries[i].word(off%entryBytes))
		}
	})
}

// eachWord splits an access into aligned 32-bit ones; other shapes are undefined
// (PCI 3.0, 6.8.2) and do nothing.
func eachWord(off uint64, data []byte, do func(uint64, []byte)) {
	if n := len(data); n != 4 && n != 8 || off%uint64(n) != 0 {
		return
	}
	for i := 0; i < len(data); i += 4 {
		do(off+uint64(i), data[i:i+4])
	}
}

func (e *entry) word(off uint64) uint32 {
	switch off {
	case entryAddr:
		return uint32(e.msg.addr)
	case entryAddr + 4:
		return uint32(e.msg.addr >> 32)
	case entryData:
		return e.msg.data
	}
	return e.control
}

// writeTable takes 32- and 64-bit writes of the table.
func (m *msix) writeTable(off uint64, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	eachWord(off, data, func(off uint64, w []byte) {
		i, v := off/entryBytes, binary.LittleEndian.Uint32(w)
		if i >= uint64(len(m.entries)) {
			return
		}
		e := &m.entries[i]
		switch off % entryBytes {
		case entryAddr:
			e.msg.addr = e.msg.addr&^0xffffffff | uint64(v)
		case entryAddr + 4:
			e.msg.addr = e.msg.addr&0xffffffff | uint64(v)<<32
		case entryData:
			e.msg.data = v
		case entryControl:
			e.control = v & entryMasked
		}
	})
	m.follow()
}

// readPBA answers 32- and 64-bit reads of the pending bits.
func (m *msix) readPBA(off uint64, data []byte) {
	eachWord(off, data, func(off uint64, w []byte) {
		m.mu.RLock()
		defer m.mu.RUnlock()
		var v uint32
		for bit := range uint64(32) {
			if i := off*8 + bit; i < uint64(len(m.entries)) && m.entries[i].pending.Load() {
				v |= 1 << bit
			}
		}
		binary.LittleEndian.PutUint32(w, v)
	})
}

// vectorState is one row of the table.
type vectorState struct {
	Addr    uint64 `json:"addr"`
	Data    uint32 `json:"data"`
	Masked  bool   `json:"masked"`
	Pending bool   `json:"pending"`
}

func (m *msix) save() (out []vectorState) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for i := range m.entries {
		e := &m.entries[i]
		out = append(out, vectorState{e.msg.addr, e.msg.data, e.control&entryMasked != 0, e.pending.Load()})
	}
	return out
}

// load sets the table and routes what is live. Message Control was loaded with
// the function's configuration space.
func (m *msix) load(s []vectorState) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(s) != len(m.entries) {
		return fmt.Errorf("%w: %d MSI-X vectors for a function with %d", virtio.ErrState, len(s), len(m.entries))
	}
	for i, v := range s {
		e := &m.entries[i]
		e.msg, e.control = message{v.Addr, v.Data}, 0
		if v.Masked {
			e.control = entryMasked
		}
		e.pending.Store(v.Pending)
	}
	return m.update()
}
