package gdbstub

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// maxRead bounds what one m packet gets, so that the reply fits into a packet.
const maxRead = maxPacket / 2

// answer does what a packet asks for and returns the reply; wait says that it
// comes later, when the guest stops. An empty reply says that a packet is not
// known.
func (s *session) answer(p string) (reply string, wait bool) {
	if p == "" {
		return "", false
	}
	rest := p[1:]
	switch p[0] {
	case '?':
		return stopReply(s.last), false
	case 'g':
		return s.readRegs(), false
	case 'G':
		return s.writeRegs(rest), false
	case 'p':
		return s.readReg(rest), false
	case 'P':
		return s.writeReg(rest), false
	case 'm':
		return s.readMemory(rest), false
	case 'M':
		addr, data, ok := strings.Cut(rest, ":")
		b, err := hex.DecodeString(data)
		if !ok || err != nil {
			return "E16", false
		}
		return s.writeMemory(addr, b), false
	case 'X':
		addr, data, ok := strings.Cut(rest, ":")
		if !ok {
			return "E16", false
		}
		return s.writeMemory(addr, []byte(data)), false
	case 'Z', 'z':
		return s.breakpoint(p[0] == 'Z', rest), false
	case 'H':
		return s.selectThread(rest), false
	case 'T':
		if _, ok := s.thread(rest); !ok {
			return "E03", false
		}
		return "OK", false
	case 'c', 's', 'C', 'S':
		return s.resumeOne(p[0])
	case 'D', 'k':
		s.over = true
		return s.okOr(s.t.Detach()), p[0] == 'k'
	case 'q', 'Q':
		return s.query(p), false
	case 'v':
		return s.verbose(p)
	}
	return "", false
}

func (s *session) query(p string) string {
	name, arg, _ := strings.Cut(p, ":")
	switch {
	case name == "qSupported":
		return fmt.Sprintf("PacketSize=%x;qXfer:features:read+;swbreak+;hwbreak+;vContSupported+;QStartNoAckMode+", maxPacket)
	case p == "QStartNoAckMode":
		s.noAck = true
		return "OK"
	case p == "qAttached":
		return "1" // so that gdb detaches when it ends, and does not kill
	case p == "qC":
		return fmt.Sprintf("QC%x", s.cpu+1)
	case p == "qfThreadInfo":
		ids := make([]string, s.t.CPUs())
		for i := range ids {
			ids[i] = strconv.FormatInt(int64(i+1), 16)
		}
		return "m" + strings.Join(ids, ",")
	case p == "qsThreadInfo":
		return "l"
	case strings.HasPrefix(p, "qThreadExtraInfo,"):
		cpu, ok := s.thread(strings.TrimPrefix(p, "qThreadExtraInfo,"))
		if !ok {
			return "E03"
		}
		return hexOf(fmt.Appendf(nil, "vCPU %d", cpu))
	case name == "qXfer" && strings.HasPrefix(arg, "features:read:target.xml:"):
		return piece(targetXML(), strings.TrimPrefix(arg, "features:read:target.xml:"))
	}
	return ""
}

// piece answers a qXfer read of "offset,length".
func piece(doc, window string) string {
	off, n, ok := twoNumbers(window)
	if !ok {
		return "E16"
	}
	size := uint64(len(doc))
	off = min(off, size)
	end := off + min(n, size-off, maxRead)
	kind := "m"
	if end == size {
		kind = "l"
	}
	return kind + doc[off:end]
}

// twoNumbers reads "HEX,HEX".
func twoNumbers(s string) (a, b uint64, ok bool) {
	x, y, ok := strings.Cut(s, ",")
	if !ok {
		return 0, 0, false
	}
	a, err1 := strconv.ParseUint(x, 16, 64)
	b, err2 := strconv.ParseUint(y, 16, 64)
	return a, b, err1 == nil && err2 == nil
}

// thread reads a thread's number: vCPU 0 is thread 1. ok is false for one that
// does not exist.
func (s *session) thread(id string) (cpu int, ok bool) {
	n, err := strconv.ParseUint(id, 16, 31)
	if err != nil || n < 1 || n > uint64(s.t.CPUs()) {
		return 0, false
	}
	return int(n) - 1, true
}

// selectThread is H: which CPU the next packets mean. 0 and -1 are any.
func (s *session) selectThread(rest string) string {
	if rest == "" {
		return "E16"
	}
	id := rest[1:]
	if id == "0" || id == "-1" {
		return "OK"
	}
	cpu, ok := s.thread(id)
	if !ok {
		return "E03"
	}
	if rest[0] == 'g' {
		s.cpu = cpu
	}
	return "OK"
}

func (s *session) readRegs() string {
	r, err := s.t.Regs(s.cpu)
	if err != nil {
		return s.failure(err)
	}
	return hexOf(r.encode())
}

func (s *session) writeRegs(data string) string {
	b, err := hex.DecodeString(data)
	if err != nil || len(b) == 0 {
		return "E16"
	}
	r, err := s.t.Regs(s.cpu)
	if err != nil {
		return s.failure(err)
	}
	r.decode(b)
	return s.okOr(s.t.SetRegs(s.cpu, r))
}

func (s *session) readReg(num string) string {
	n, err := strconv.ParseUint(num, 16, 16)
	if err != nil || n >= uint64(len(registers())) {
		return "E16"
	}
	r, err := s.t.Regs(s.cpu)
	if err != nil {
		return s.failure(err)
	}
	b := make([]byte, registers()[n].bits/8)
	registers()[n].bytes(&r, b, false)
	return hexOf(b)
}

func (s *session) writeReg(rest string) string {
	num, data, _ := strings.Cut(rest, "=")
	n, err := strconv.ParseUint(num, 16, 16)
	b, herr := hex.DecodeString(data)
	if err != nil || herr != nil || n >= uint64(len(registers())) || len(b) != registers()[n].bits/8 {
		return "E16"
	}
	r, err := s.t.Regs(s.cpu)
	if err != nil {
		return s.failure(err)
	}
	registers()[n].bytes(&r, b, true)
	return s.okOr(s.t.SetRegs(s.cpu, r))
}

func (s *session) readMemory(rest string) string {
	addr, n, ok := twoNumbers(rest)
	if !ok {
		return "E16"
	}
	b := make([]byte, min(n, maxRead))
	got, err := s.t.ReadMemory(s.cpu, addr, b)
	if err != nil {
		return s.failure(err)
	}
	return hexOf(b[:got])
}

func (s *session) writeMemory(window string, b []byte) string {
	addr, n, ok := twoNumbers(window)
	if !ok || n != uint64(len(b)) {
		return "E16"
	}
	if n == 0 {
		return "OK" // gdb asks so whether X is known
	}
	return s.okOr(s.t.WriteMemory(s.cpu, addr, b))
}

// breakpoint is Z and z: "KIND,ADDR,SIZE", and conditions that we do not know.
func (s *session) breakpoint(set bool, rest string) string {
	if strings.Contains(rest, ";") || len(rest) < 2 || rest[1] != ',' || rest[0] < '0' || rest[0] > '4' {
		return ""
	}
	addr, size, ok := twoNumbers(rest[2:])
	if !ok {
		return "E16"
	}
	b := Break{Kind: BreakKind(rest[0] - '0'), Addr: addr, Size: size}
	if set {
		return s.okOr(s.t.SetBreak(s.cpu, b))
	}
	return s.okOr(s.t.ClearBreak(b))
}
