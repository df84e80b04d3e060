package legacy

import (
	"io"
	"sync"

	"github.com/hvctl/hvctl/internal/state"
)

// COM1 is where Linux looks for the first serial port.
const (
	COM1     = 0x3f8
	COM1Size = 8
	COM1GSI  = 4
)

// 16550A registers, offsets from the base port (National Semiconductor
// PC16550D data sheet, section 8).
const (
	regData = 0 // RBR, THR; divisor latch low when DLAB
	regIER  = 1 // interrupt enable; divisor latch high when DLAB
	regIIR  = 2 // read: interrupt identification; write: FIFO control
	regLCR  = 3
	regMCR  = 4
	regLSR  = 5
	regMSR  = 6
	regSCR  = 7
)

const (
	ierRxAvailable = 1 << 0
	ierTxEmpty     = 1 << 1
	ierMask        = 0x0f

	iirNone        = 0x01
	iirTxEmpty     = 0x02
	iirRxAvailable = 0x04
	iirFIFOEnabled = 0xc0

	fcrEnable  = 1 << 0
	fcrClearRx = 1 << 1

	lcrDLAB = 1 << 7

	mcrLoop = 1 << 4
	mcrMask = 0x1f

	lsrDataReady = 1 << 0
	lsrOverrun   = 1 << 1
	lsrTxIdle    = 1<<5 | 1<<6 // holding and shift registers empty

	msrIdle = 1<<4 | 1<<5 | 1<<7 // CTS, DSR, DCD: a line is connected

	fifoSize = 16
)

// Serial is a 16550A with its FIFO. Output goes to a writer as the guest
// writes it, a byte an exit; input is pushed by Feed. The transmitter is always
// empty: a byte is gone when the write returns.
type Serial struct {
	out   io.Writer
	raise func()

	mu        sync.Mutex
	s         serialState
	rx        []byte // received, not yet read by the guest
	room      *sync.Cond
	closed    bool
	txPending bool // a transmitter-empty interrupt has not been acknowledged
}

// serialState is what the guest programmed.
type serialState struct {
	IER, LCR, MCR, SCR, FCR uint8
	Divisor                 uint16
	Rx                      []byte
	Overrun                 bool
	TxPending               bool
}

// NewSerial returns a serial port that writes to out and calls raise to send
// its edge interrupt. Neither is called with locks held that Feed needs; out
// must not block for long, since it stops the vCPU.
func NewSerial(out io.Writer, raise func()) *Serial {
	s := &Serial{out: out, raise: raise, s: serialState{Divisor: 12}} // 9600 baud
	s.room = sync.NewCond(&s.mu)
	return s
}

// Feed gives the port p as received characters. It blocks while the receive
// FIFO is full, until the guest has read, and returns early when the port is
// closed.
func (s *Serial) Feed(p []byte) {
	for len(p) > 0 {
		s.mu.Lock()
		for len(s.rx) >= fifoSize && !s.closed {
			s.room.Wait()
		}
		if s.closed {
			s.mu.Unlock()
			return
		}
		n := min(len(p), fifoSize-len(s.rx))
		s.rx = append(s.rx, p[:n]...)
		p = p[n:]
		raise := s.s.IER&ierRxAvailable != 0
		s.mu.Unlock()
		if raise {
			s.raise()
		}
	}
}

// Close wakes a blocked Feed. The port stays readable by the guest.
func (s *Serial) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.room.Broadcast()
}

// ReadAt implements bus.Handler. Only byte accesses exist on a 16550; the
// bytes of a wider one are zero past the first.
func (s *Serial) ReadAt(off uint64, p []byte) {
	clear(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	p[0] = s.read(off)
}

func (s *Serial) read(off uint64) uint8 {
	switch off {
	case regData:
		if s.s.LCR&lcrDLAB != 0 {
			return uint8(s.s.Divisor)
		}
		if len(s.rx) == 0 {
			return 0
		}
		c := s.rx[0]
		s.rx = append(s.rx[:0], s.rx[1:]...)
		s.room.Broadcast()
		return c
	case regIER:
		if s.s.LCR&lcrDLAB != 0 {
			return uint8(s.s.Divisor >> 8)
		}
		return s.s.IER
	case regIIR:
		return s.identify()
	case regLCR:
		return s.s.LCR
	case regMCR:
		return s.s.MCR
	case regLSR:
		lsr := uint8(lsrTxIdle)
		if len(s.rx) > 0 {
			lsr |= lsrDataReady
		}
		if s.s.Overrun {
			lsr |= lsrOverrun
			s.s.Overrun = false
		}
		return lsr
	case regMSR:
		if s.s.MCR&mcrLoop != 0 { // the four outputs come back as inputs
			m := s.s.MCR
			return m&2<<3 | m&1<<5 | m&4<<4 | m&8<<4
		}
		return msrIdle
	case regSCR:
		return s.s.SCR
	}
	return 0xff
}

// identify reports the most urgent interrupt; reading it acknowledges the
// transmitter's (data sheet 8.6.3).
func (s *Serial) identify() uint8 {
	var fifo uint8
	if s.s.FCR&fcrEnable != 0 {
		fifo = iirFIFOEnabled
	}
	switch {
	case s.s.IER&ierRxAvailable != 0 && len(s.rx) > 0:
		return fifo | iirRxAvailable
	case s.s.IER&ierTxEmpty != 0 && s.txPending:
		s.txPending = false
		return fifo | iirTxEmpty
	}
	return fifo | iirNone
}

// WriteAt implements bus.Handler.
func (s *Serial) WriteAt(off uint64, p []byte) {
	v := p[0]
	s.mu.Lock()
	raise, emit := s.write(off, v)
	s.mu.Unlock()
	if emit {
		_, _ = s.out.Write(p[:1]) // a console nobody can read is not the guest's problem
	}
	if raise {
		s.raise()
	}
}

func (s *Serial) write(off uint64, v uint8) (raise, emit bool) {
	switch off {
	case regData:
		if s.s.LCR&lcrDLAB != 0 {
			s.s.Divisor = s.s.Divisor&0xff00 | uint16(v)
			return false, false
		}
		if s.s.MCR&mcrLoop != 0 {
			if len(s.rx) >= fifoSize {
				s.s.Overrun = true
				return false, false
			}
			s.rx = append(s.rx, v)
			return s.s.IER&ierRxAvailable != 0, false
		}
		s.txPending = true
		return s.s.IER&ierTxEmpty != 0, true
	case regIER:
		if s.s.LCR&lcrDLAB != 0 {
			s.s.Divisor = s.s.Divisor&0xff | uint16(v)<<8
			return false, false
		}
		enabled := v &^ s.s.IER
		s.s.IER = v & ierMask
		if enabled&ierTxEmpty != 0 { // the holding register is empty already
			s.txPending = true
			raise = true
		}
		return raise || enabled&ierRxAvailable != 0 && len(s.rx) > 0, false
	case regIIR:
		s.s.FCR = v &^ fcrClearRx
		if v&fcrClearRx != 0 {
			s.rx = s.rx[:0]
			s.room.Broadcast()
		}
	case regLCR:
		s.s.LCR = v
	case regMCR:
		s.s.MCR = v & mcrMask
	case regSCR:
		s.s.SCR = v
	}
	return false, false
}

// StateVersion implements state.Stateful.
func (s *Serial) StateVersion() uint32 { return 1 }

// SaveState implements state.Stateful.
func (s *Serial) SaveState() (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.s
	v.Rx = append([]byte(nil), s.rx...)
	v.TxPending = s.txPending
	return v, nil
}

// LoadState implements state.Stateful. An interrupt that the guest has not
// acknowledged is raised again: on its way it may not have been saved.
func (s *Serial) LoadState(d state.Decoder) error {
	var v serialState
	if err := d.Into(&v); err != nil {
		return err
	}
	if s.load(v) {
		s.raise()
	}
	return nil
}

func (s *Serial) load(v serialState) (raise bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rx = append(s.rx[:0], v.Rx[:min(len(v.Rx), fifoSize)]...)
	s.txPending = v.TxPending
	v.Rx = nil
	v.IER &= ierMask
	v.MCR &= mcrMask
	s.s = v
	return v.IER&ierRxAvailable != 0 && len(s.rx) > 0 || v.IER&ierTxEmpty != 0 && s.txPending
}
