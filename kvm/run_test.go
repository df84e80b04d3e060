package kvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestHLTExits(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.code(0xb8, 0x34, 0x12, 0xf4) // mov ax, 0x1234; hlt
	g.expect(ExitHLT)
	r, err := g.vcpu.Regs()
	g.ok(err)
	if r.RAX != 0x1234 {
		t.Errorf("AX is %#x, want 0x1234", r.RAX)
	}
}

func TestPIOOut(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.code(
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xb0, 'x', // mov al, 'x'
		0xee,             // out dx, al
		0xb8, 0x22, 0x11, // mov ax, 0x1122
		0xef,                               // out dx, ax
		0x66, 0xb8, 0x44, 0x33, 0x22, 0x11, // mov eax, 0x11223344
		0x66, 0xef, // out dx, eax
		0xf4,
	)
	for _, want := range [][]byte{{'x'}, {0x22, 0x11}, {0x44, 0x33, 0x22, 0x11}} {
		g.expect(ExitIO)
		e := g.vcpu.IO()
		if e.Port != 0x3f8 || !e.Out || e.Count != 1 || e.Size != len(want) || !bytes.Equal(e.Data, want) {
			t.Errorf("got %+v, want one write of % x to 0x3f8", e, want)
		}
	}
	g.expect(ExitHLT)
}

func TestPIOIn(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.code(
		0xe5, 0x71, // in ax, 0x71
		0xf4,
	)
	g.expect(ExitIO)
	e := g.vcpu.IO()
	if e.Port != 0x71 || e.Out || e.Count != 1 || e.Size != 2 || len(e.Data) != 2 {
		t.Fatalf("got %+v, want one 2-byte read of 0x71", e)
	}
	binary.LittleEndian.PutUint16(e.Data, 0xbeef)
	g.expect(ExitHLT)
	r, err := g.vcpu.Regs()
	g.ok(err)
	if r.RAX&0xffff != 0xbeef {
		t.Errorf("AX is %#x, want what the exit was given, 0xbeef", r.RAX)
	}
}

func TestRepOuts(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.code(
		0xbe, 0x00, 0x20, // mov si, 0x2000
		0xb9, 0x05, 0x00, // mov cx, 5
		0xba, 0xe9, 0x00, // mov dx, 0xe9
		0xfc,       // cld
		0xf3, 0x6f, // rep outsw
		0xf4,
	)
	copy(g.mem[0x2000:], "0123456789")
	var got []byte
	for {
		r := g.run()
		if r == ExitHLT {
			break
		}
		if r != ExitIO {
			t.Fatalf("exit %v", r)
		}
		e := g.vcpu.IO()
		if e.Port != 0xe9 || !e.Out || e.Size != 2 || e.Count*e.Size != len(e.Data) {
			t.Fatalf("got %+v", e)
		}
		for i := range e.Count {
			got = append(got, e.Element(i)...)
		}
	}
	if string(got) != "0123456789" {
		t.Errorf("the port saw %q, want every element once and in order", got)
	}
}

func TestRepIns(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.code(
		0xbf, 0x00, 0x20, // mov di, 0x2000
		0xb9, 0x06, 0x00, // mov cx, 6
		0xba, 0x60, 0x00, // mov dx, 0x60
		0xfc,       // cld
		0xf3, 0x6c, // rep insb
		0xf4,
	)
	next := byte('a')
	for {
		r := g.run()
		if r == ExitHLT {
			break
		}
		if r != ExitIO {
			t.Fatalf("exit %v", r)
		}
		e := g.vcpu.IO()
		if e.Port != 0x60 || e.Out || e.Size != 1 {
			t.Fatalf("got %+v", e)
		}
		for i := range e.Count {
			e.Element(i)[0] = next
			next++
		}
	}
	if got := string(g.mem[0x2000:0x2007]); got != "abcdef\x00" {
		t.Errorf("memory holds %q, want the six elements", got)
	}
}

func TestMMIO(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.code(
		0xb8, 0x00, 0x20, // mov ax, 0x2000
		0x8e, 0xd8, // mov ds, ax: base 0x20000, beyond the memory
		0xc7, 0x06, 0x10, 0x00, 0xcd, 0xab, // mov word [0x10], 0xabcd
		0xa1, 0x20, 0x00, // mov ax, [0x20]
		0xf4,
	)
	g.expect(ExitMMIO)
	e := g.vcpu.MMIO()
	if e.Addr != 0x20010 || !e.Write || !bytes.Equal(e.Data, []byte{0xcd, 0xab}) {
		t.Errorf("got %+v, want a write of cd ab to 0x20010", e)
	}
	g.expect(ExitMMIO)
	e = g.vcpu.MMIO()
	if e.Addr != 0x20020 || e.Write || len(e.Data) != 2 {
		t.Errorf("got %+v, want a 2-byte read of 0x20020", e)
	}
	copy(e.Data, []byte{0x78, 0x56})
	g.expect(ExitHLT)
	r, err := g.vcpu.Regs()
	g.ok(err)
	if r.RAX&0xffff != 0x5678 {
		t.Errorf("AX is %#x, want what the exit was given, 0x5678", r.RAX)
	}
}

func TestTripleFaultIsShutdown(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.protectedMode()
	s, err := g.vcpu.Sregs()
	g.ok(err)
	s.IDT = DTable{} // no vector fits: #UD, #GP, #DF, shutdown
	g.ok(g.vcpu.SetSregs(&s))
	g.code(0x0f, 0x0b) // ud2
	g.expect(ExitShutdown)
}

func TestImmediateExitReturnsAtOnce(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.code(0xf4)
	g.vcpu.SetImmediateExit(true)
	if !g.vcpu.ImmediateExit() {
		t.Error("ImmediateExit is false after SetImmediateExit(true)")
	}
	for range 3 {
		r, err := g.vcpu.Run()
		if r != ExitIntr || err != nil {
			t.Fatalf("Run with immediate exit: %v, %v, want intr", r, err)
		}
	}
	regs, err := g.vcpu.Regs()
	g.ok(err)
	if regs.RIP != codeAt {
		t.Errorf("RIP is %#x: the guest ran", regs.RIP)
	}
	g.vcpu.SetImmediateExit(false)
	g.expect(ExitHLT)
}

func TestCompleteExitFinishesRead(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.code(0xe4, 0x71, 0xf4) // in al, 0x71; hlt
	g.expect(ExitIO)
	g.vcpu.IO().Data[0] = 0x5a
	g.ok(g.vcpu.CompleteExit())
	r, err := g.vcpu.Regs()
	g.ok(err)
	if r.RAX&0xff != 0x5a || r.RIP != codeAt+2 {
		t.Errorf("AL %#x, RIP %#x; want 0x5a and %#x: the IN was not completed", r.RAX&0xff, r.RIP, codeAt+2)
	}
	if g.vcpu.ImmediateExit() {
		t.Error("CompleteExit left immediate exit on")
	}
	g.expect(ExitHLT)
}

func TestRunDoesNotAllocate(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.code(0xe6, 0x80, 0xeb, 0xfc) // out 0x80, al; jmp back
	bad := 0
	n := testing.AllocsPerRun(100, func() {
		r, err := g.vcpu.Run()
		if err != nil || r != ExitIO && r != ExitIntr {
			bad++
			return
		}
		if e := g.vcpu.IO(); r == ExitIO && e.Port != 0x80 {
			bad++
		}
	})
	if n != 0 || bad != 0 {
		t.Errorf("%v allocations per exit, %d bad exits, want none", n, bad)
	}
}

func TestClosedVCPU(t *testing.T) {
	g := newGuest(t, guestOptions{})
	g.ok(g.vcpu.Close())
	g.ok(g.vcpu.Close())
	g.vcpu.SetImmediateExit(true) // must not touch the mapping, which is gone
	_, err := g.vcpu.Run()
	wantErr(t, err, os.ErrClosed)
	_, err = g.vcpu.Regs()
	wantErr(t, err, os.ErrClosed)
	if !IsClosed(err) {
		t.Errorf("IsClosed(%v) is false", err)
	}
}

func TestErrorsCarryTheIoctl(t *testing.T) {
	g := newGuest(t, guestOptions{})
	_, err := g.vm.CreateVCPU(0)
	wantErr(t, err, unix.EEXIST)
	var se *os.SyscallError
	if !errors.As(err, &se) || se.Syscall != "KVM_CREATE_VCPU" {
		t.Errorf("error %v, want an os.SyscallError of KVM_CREATE_VCPU", err)
	}
}

func TestMemoryFault(t *testing.T) {
	g := newGuest(t, guestOptions{memory: 1 << 20})
	hole, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	g.ok(err)
	g.ok(g.vm.SetMemorySlot(1, 0, 0x200000, hole))
	g.ok(unix.Munmap(hole)) // a VMM bug, or a file that was truncated
	g.userMode()
	g.code(0x8b, 0x04, 0x25, 0x00, 0x10, 0x20, 0x00) // mov eax, [0x201000]
	for {
		r, err := g.vcpu.Run()
		if r == ExitIntr && err == nil {
			continue
		}
		if r == ExitMemoryFault && err == nil {
			if f := g.vcpu.MemoryFault(); f.GPA&^0xfff != 0x201000 || f.Flags&MemoryFaultPrivate != 0 {
				t.Errorf("got %+v, want a fault at 0x201000", f)
			}
			return
		}
		// Before Linux 6.8 there is the errno alone.
		wantErr(t, err, unix.EFAULT)
		return
	}
}

// fakeVCPU is a VCPU whose kvm_run page is plain memory, to feed the decoders.
func fakeVCPU() *VCPU {
	mem := make([]uint64, minRunMapping/8)
	v := &VCPU{mem: unsafe.Slice((*byte)(unsafe.Pointer(&mem[0])), minRunMapping)}
	v.run = (*runPage)(unsafe.Pointer(&mem[0]))
	return v
}

func TestIODecoderStaysInsideTheMapping(t *testing.T) {
	v := fakeVCPU()
	for _, c := range []struct {
		raw  rawIO
		want int // elements
	}{
		{rawIO{Size: 4, Count: 3, DataOffset: 4096}, 3},
		{rawIO{Size: 4, Count: 1024, DataOffset: 4096}, 1024},
		{rawIO{Size: 4, Count: 1025, DataOffset: 4096}, 0},
		{rawIO{Size: 1, Count: 1, DataOffset: minRunMapping}, 0},
		{rawIO{Size: 255, Count: 1<<32 - 1, DataOffset: 0}, 0},
		{rawIO{Size: 1, Count: 1, DataOffset: 1<<64 - 1}, 0},
	} {
		*exitAs[rawIO](v) = c.raw
		e := v.IO()
		if e.Count != c.want || len(e.Data) != c.want*int(c.raw.Size) {
			t.Errorf("%+v: %d elements in %d bytes, want %d", c.raw, e.Count, len(e.Data), c.want)
		}
	}
}

func TestMMIODecoderStaysInsideTheData(t *testing.T) {
	v := fakeVCPU()
	*exitAs[rawMMIO](v) = rawMMIO{PhysAddr: 0xd0000000, Len: 1 << 31, IsWrite: 1}
	if e := v.MMIO(); len(e.Data) != 8 || cap(e.Data) != 8 {
		t.Errorf("%d bytes of MMIO data, want 8", len(e.Data))
	}
}

func TestInternalErrorSaysWhat(t *testing.T) {
	v := fakeVCPU()
	e := v.InternalError()
	e.Suberror, e.NData = InternalErrorEmulation, 3
	e.Data[0] = emulationFlagInstructionBytes
	e.Data[1] = 0x00_00_00_00_00_0b_0f_02 // two bytes: 0f 0b
	if got := e.String(); got != "cannot emulate instruction 0f 0b" {
		t.Errorf("%q", got)
	}
	e.Data[1] = 0xff // more bytes than there is room for
	if n := len(e.Instruction()); n != 15 {
		t.Errorf("%d instruction bytes, want 15", n)
	}
	e.NData = 1 << 30
	if n := len(e.Values()); n != 16 {
		t.Errorf("%d values, want 16", n)
	}
	for sub, want := range map[uint32]string{
		InternalErrorSimulEx:              "simultaneous exceptions",
		InternalErrorDeliveryEv:           "delivering an event",
		InternalErrorUnexpectedExitReason: "unexpected exit reason",
		77:                                "suberror 77",
	} {
		e.Suberror = sub
		if got := e.String(); !strings.Contains(got, want) {
			t.Errorf("suberror %d: %q, want %q in it", sub, got, want)
		}
	}
	s := v.SystemEvent()
	s.NData = 99
	if n := len(s.Values()); n != 16 {
		t.Errorf("%d values of a system event, want 16", n)
	}
}

func TestExitReasonNames(t *testing.T) {
	for r, want := range map[ExitReason]string{
		ExitIO: "io", ExitMemoryFault: "memory_fault", ExitAgain: "again", 99: "exit_99",
	} {
		if got := r.String(); got != want {
			t.Errorf("%d: %q, want %q", uint32(r), got, want)
		}
	}
}

// BenchmarkPIOExit measures one exit and entry for a port write, from 64-bit
// user mode.
func BenchmarkPIOExit(b *testing.B) {
	g := newGuest(b, guestOptions{memory: 1 << 20})
	g.userMode()
	g.code(0xe6, 0x80, 0xeb, 0xfc) // out 0x80, al; jmp back
	b.ReportAllocs()
	for b.Loop() {
		if r, err := g.vcpu.Run(); err != nil || r != ExitIO && r != ExitIntr {
			b.Fatal(r, err)
		}
	}
}
