package vcpu_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/vcpu"
)

// Where things are in a micro-guest. Memory ends at ramSize; the page tables
// map more, so that accesses from mmioAt on are MMIO.
const (
	codeAt  = 0x1000
	counter = 0x7000
	dataAt  = 0x6000
	ramSize = 2 << 20
	mmioAt  = 0xc00000
)

// guest is a VM with one vCPU that runs a few instructions at CPL 3, natively
// on every host.
type guest struct {
	*vcpu.VCPU
	t      *testing.T
	mem    []byte
	events chan vcpu.Event
}

// busFunc is a bus that one function answers.
type busFunc func(addr uint64, data []byte, write bool)

func (f busFunc) Read(addr uint64, data []byte) bool  { f(addr, data, false); return true }
func (f busFunc) Write(addr uint64, data []byte) bool { f(addr, data, true); return true }

func unwanted(t *testing.T, what string) vcpu.Bus {
	return busFunc(func(addr uint64, _ []byte, _ bool) { t.Errorf("%s access at %#x", what, addr) })
}

func newVM(t *testing.T) (*kvm.VM, []byte) {
	t.Helper()
	testenv.Require(t, testenv.KVM)
	sys, err := kvm.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sys.Close() })
	vm, err := sys.CreateVM()
	if err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(-1, 0, ramSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	t.Cleanup(func() { _ = vm.Close() })
	if err := vm.SetMemorySlot(0, 0, 0, mem); err != nil {
		t.Fatal(err)
	}
	if err := vm.SetTSSAddr(0xfffbd000); err != nil {
		t.Fatal(err)
	}
	return vm, mem
}

// newGuest makes a parked guest with the given code. A nil bus must not be
// used.
func newGuest(t *testing.T, pio, mmio vcpu.Bus, regs kvm.Regs, code ...byte) *guest {
	t.Helper()
	vm, mem := newVM(t)
	copy(mem[codeAt:], code)
	if pio == nil {
		pio = unwanted(t, "port")
	}
	if mmio == nil {
		mmio = unwanted(t, "memory")
	}
	g := &guest{t: t, mem: mem, events: make(chan vcpu.Event, 8)}
	var err error
	g.VCPU, err = vcpu.Start(vm, vcpu.Options{
		PIO: pio, MMIO: mmio,
		Setup: func(c *kvm.VCPU) error { return userMode(c, mem, regs) },
		Event: func(e vcpu.Event) { g.events <- e },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Stop)
	return g
}

// userMode switches to 64-bit mode at CPL 3 with I/O privileges. The first
// 16 MiB are mapped one to one; page tables are at 0x2000 to 0x4fff.
func userMode(c *kvm.VCPU, mem []byte, regs kvm.Regs) error {
	const table, large = 7, 0x87 // present, writable, user; and a 2 MiB page
	binary.LittleEndian.PutUint64(mem[0x2000:], 0x3000|table)
	binary.LittleEndian.PutUint64(mem[0x3000:], 0x4000|table)
	for i := range 8 {
		binary.LittleEndian.PutUint64(mem[0x4000+8*i:], uint64(i)<<21|large)
	}
	s, err := c.Sregs()
	if err != nil {
		return err
	}
	s.CS = kvm.Segment{Limit: 0xffffffff, Selector: 0x33, Type: 0xb, Present: 1, DPL: 3, L: 1, S: 1, G: 1}
	data := kvm.Segment{Limit: 0xffffffff, Selector: 0x2b, Type: 3, Present: 1, DPL: 3, DB: 1, S: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	s.TR = kvm.Segment{Base: 0x5000, Limit: 0x67, Selector: 0x40, Type: 0xb, Present: 1}
	s.CR0, s.CR3, s.CR4, s.EFER = 0x80000033, 0x2000, 0x620, 0x500 // CR4: PAE, and SSE by OSFXSR and OSXMMEXCPT
	s.GDT, s.IDT = kvm.DTable{}, kvm.DTable{}
	if err := c.SetSregs(&s); err != nil {
		return err
	}
	regs.RIP, regs.RSP, regs.RFLAGS = codeAt, 0x8000, 0x3002 // IOPL 3
	return c.SetRegs(&regs)
}

// spin counts at counter for ever.
var spin = []byte{
	0xf0, 0xff, 0x04, 0x25, 0x00, 0x70, 0, 0, // lock inc dword [counter]
	0xeb, 0xf6, // jmp back
}

// count is what spin has counted to.
func (g *guest) count() uint32 {
	return binary.LittleEndian.Uint32(g.mem[counter:])
}

func (g *guest) ok(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *guest) regs() (r kvm.Regs) {
	g.t.Helper()
	g.ok(g.Do(func(c *kvm.VCPU) (err error) { r, err = c.Regs(); return err }))
	return r
}

// eventually waits for what a guest does and cannot signal.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("gave up waiting until %s", what)
		}
		runtime.Gosched()
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 20_000}, nil)
	}
}

// threadGone reports whether the vCPU's thread has ended. Go parks the process's
// first thread for good instead of ending it.
func (g *guest) threadGone() bool {
	_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", g.TID()))
	return errors.Is(err, fs.ErrNotExist) || g.TID() == os.Getpid()
}

// TestMain fails when the tests leave descriptors of KVM open.
func TestMain(m *testing.M) {
	code := m.Run()
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, f := range fds {
		if to, _ := os.Readlink("/proc/self/fd/" + f.Name()); len(to) > 14 && to[:14] == "anon_inode:kvm" {
			fmt.Fprintln(os.Stderr, "left open:", to)
			code = 1
		}
	}
	os.Exit(code)
}
