package virtiotest

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"
)

// Operations of a fuzz script: one byte says which, seven are its operands.
const (
	opDesc = iota
	opOffer
	opKick
	opAvailIdx
	opReadConfig
	opWriteConfig
	opStatus
	opRenew
	opMemory
	opPause
	opSuppress
	opSettle
	opCount
)

// Fuzz runs scripts of a hostile driver against the device: any descriptors,
// any indices, configuration accesses, status writes, pauses and resets in any
// order. Nothing may fail the machine, and the device must work afterwards.
func (s Suite) Fuzz(f *testing.F) {
	for i := range opCount {
		f.Add([]byte{byte(i), 0, 0, 0, 0, 0, 0, 0})
	}
	// A chain of a readable header and a writable buffer, offered and kicked.
	f.Add([]byte{
		opMemory, 0, 0, 0, 0, 0, 0, 0,
		opDesc, 0, 0, 16, 0, 1, 1, 0,
		opDesc, 0, 1, 0, 2, 2, 0, 1,
		opOffer, 0, 0, 0, 0, 0, 0, 0,
		opKick, 0, 0, 0, 0, 0, 0, 0,
		opSettle, 0, 0, 0, 0, 0, 0, 0,
	})
	f.Fuzz(func(t *testing.T, script []byte) {
		d := s.start(t, Direct)
		defer d.finish()
		for n := 0; len(script) >= 8 && n < 256; n++ {
			d.step(script[0]%opCount, script[1:8])
			script = script[8:]
		}
		d.Renew()
		s.works(t, d)
	})
}

// step does one operation. Buffers lie in 64 KiB from fuzzBase on, so that they
// overlap each other and, at the end, nothing.
func (d *Driver) step(op byte, a []byte) {
	const fuzzBase = 0x800000
	if len(d.queues) == 0 {
		return
	}
	q := d.queues[int(a[0])%len(d.queues)]
	w := binary.LittleEndian.Uint16(a[1:])
	switch op {
	case opDesc:
		x := Desc{Addr: gpa(fuzzBase + 16*uint64(a[6])), Len: uint32(binary.LittleEndian.Uint16(a[2:])), Flags: uint16(a[4]), Next: uint16(a[5])}
		if a[4]&0x80 != 0 {
			x.Addr <<= a[6] & 63
		}
		if a[4]&0x40 != 0 {
			x.Len <<= 16
		}
		if a[4]&0x20 != 0 { // into the table below
			d.Write(fuzzBase+16*gpa(uint64(a[1])), x.bytes())
			return
		}
		q.WriteDesc(uint16(a[1])%q.size, x)
	case opOffer:
		q.Offer(w % (q.size + 1))
	case opKick:
		q.Kick()
	case opAvailIdx:
		q.SetAvailIdx(w)
	case opReadConfig:
		d.Config(uint32(w), 1<<(a[3]&3))
	case opWriteConfig:
		d.Link.WriteConfig(uint32(w), a[3:3+1<<(a[0]&1)])
	case opStatus:
		d.Link.SetStatus(d.Link.Status() | 1<<(a[1]&7))
	case opRenew:
		d.Renew()
	case opMemory:
		d.Write(fuzzBase+gpa(uint64(w)), a[3:])
	case opPause:
		d.Stop()
		d.Resume()
	case opSuppress:
		q.NoInterrupts(a[3]&1 != 0)
		q.SetUsedEvent(w)
	case opSettle:
		// Give the worker a moment, no more: it may be waiting for its host side.
		runs, deadline := d.Link.Core().Runs(q.index), time.Now().Add(time.Millisecond)
		for q.Kick(); d.Link.Core().Runs(q.index) == runs && time.Now().Before(deadline); {
			runtime.Gosched()
		}
	}
}
