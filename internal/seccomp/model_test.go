package seccomp

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// call is what a filter sees.
type call struct {
	arch uint32
	nr   uint32
	args [6]uint64
}

// filter runs a compiled program in an interpreter that is not ours.
type filter struct{ vm *bpf.VM }

func newFilter(t testing.TB, p *Program) filter {
	t.Helper()
	raw := make([]bpf.RawInstruction, 0, p.Len())
	for b := p.Filter; len(b) > 0; b = b[insnSize:] {
		raw = append(raw, bpf.RawInstruction{Op: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:])})
	}
	prog, all := bpf.Disassemble(raw)
	if !all {
		t.Fatal("the program has instructions that the interpreter does not know")
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	return filter{vm}
}

// run answers for c. The interpreter reads words as networks have them, the
// kernel as the machine has them: c is laid out for the former.
func (f filter) run(t testing.TB, c call) uint32 {
	t.Helper()
	var b [64]byte
	be := binary.BigEndian
	be.PutUint32(b[offNumber:], c.nr)
	be.PutUint32(b[offArch:], c.arch)
	for i, a := range c.args {
		be.PutUint32(b[offArgs+8*i:], uint32(a))
		be.PutUint32(b[offArgs+8*i+4:], uint32(a>>32))
	}
	n, err := f.vm.Run(b[:])
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// number is the function from names to an interface's numbers.
func number(a arch) func(string) int {
	return func(name string) int {
		if s := find(name); s != nil {
			return int(a.number(s))
		}
		return none
	}
}

// model answers as the package's documentation says, with no regard for
// anything but that.
func model(s *specs.LinuxSeccomp, c call) uint32 {
	ret := func(a specs.LinuxSeccompAction, e *uint) uint32 {
		base := map[specs.LinuxSeccompAction]uint32{
			specs.ActAllow: unix.SECCOMP_RET_ALLOW, specs.ActErrno: unix.SECCOMP_RET_ERRNO, specs.ActTrace: unix.SECCOMP_RET_TRACE,
			specs.ActKill: unix.SECCOMP_RET_KILL_THREAD, specs.ActKillThread: unix.SECCOMP_RET_KILL_THREAD,
			specs.ActKillProcess: unix.SECCOMP_RET_KILL_PROCESS, specs.ActTrap: unix.SECCOMP_RET_TRAP,
			specs.ActLog: unix.SECCOMP_RET_LOG, specs.ActNotify: unix.SECCOMP_RET_USER_NOTIF,
		}[a]
		if a == specs.ActErrno || a == specs.ActTrace {
			if e == nil {
				return base | 1
			}
			return base | uint32(*e)
		}
		return base
	}
	// Which interface is it?
	var numbers func(name string) int
	nr, is32 := int(c.nr), false
	switch {
	case c.arch == unix.AUDIT_ARCH_X86_64 && c.nr == 0xffffffff:
		numbers, nr = func(string) int { return none }, 1<<30
	case c.arch == unix.AUDIT_ARCH_X86_64 && c.nr >= x32Bit:
		if !slices.Contains(s.Architectures, specs.ArchX32) {
			return unix.SECCOMP_RET_KILL_PROCESS
		}
		numbers, nr = number(amd64x32), int(c.nr&^x32Bit)
	case c.arch == unix.AUDIT_ARCH_X86_64:
		numbers = number(amd64)
	case c.arch == unix.AUDIT_ARCH_I386 && slices.Contains(s.Architectures, specs.ArchX86):
		numbers, is32 = number(i386), true
	default:
		return unix.SECCOMP_RET_KILL_PROCESS
	}
	holds := func(a specs.LinuxSeccompArg) bool {
		x, v, w := c.args[a.Index], a.Value, a.ValueTwo
		if is32 { // the kernel extends 32-bit arguments with zeros
			v, w = v&0xffffffff, w&0xffffffff
		}
		switch a.Op {
		case specs.OpEqualTo:
			return x == v
		case specs.OpNotEqual:
			return x != v
		case specs.OpLessThan:
			return x < v
		case specs.OpLessEqual:
			return x <= v
		case specs.OpGreaterThan:
			return x > v
		case specs.OpGreaterEqual:
			return x >= v
		default:
			return x&v == w
		}
	}
	var conditional, plain *uint32
	highest := -1
	for _, e := range s.Syscalls {
		r := ret(e.Action, e.ErrnoRet)
		fits := len(e.Args) > 0
		var seen [6]bool
		either, one := false, false
		for _, a := range e.Args {
			either = either || seen[a.Index]
			seen[a.Index] = true
			one = one || holds(a)
			fits = fits && holds(a)
		}
		if either {
			fits = one
		}
		for _, name := range e.Names {
			n := numbers(name)
			highest = max(highest, n)
			if n == nr && n != none {
				if len(e.Args) > 0 && fits && conditional == nil {
					conditional = &r
				}
				if len(e.Args) == 0 && plain == nil {
					plain = &r
				}
			}
			if m := multiplexed(name); is32 && m.via != nil && len(e.Args) == 0 && int(m.via.i386) == nr && c.args[0]&0xffff == m.call && conditional == nil {
				conditional = &r
			}
		}
	}
	switch base := ret(s.DefaultAction, s.DefaultErrnoRet); {
	case conditional != nil:
		return *conditional
	case plain != nil:
		return *plain
	case nr > highest && len(s.Syscalls) > 0 && (s.DefaultAction == specs.ActErrno || s.DefaultAction == specs.ActKill ||
		s.DefaultAction == specs.ActKillThread || s.DefaultAction == specs.ActKillProcess || s.DefaultAction == specs.ActTrap):
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	default:
		return base
	}
}

// randomProfile makes a valid profile.
func randomProfile(r *rand.Rand) *specs.LinuxSeccomp {
	actions := []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActTrace, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActLog, specs.ActNotify,
	}
	ops := []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual,
	}
	withErrno := func(a specs.LinuxSeccompAction) *uint {
		if (a == specs.ActErrno || a == specs.ActTrace) && r.IntN(2) == 0 {
			return new(r.UintN(200))
		}
		return nil
	}
	s := &specs.LinuxSeccomp{DefaultAction: actions[r.IntN(len(actions)-1)], ListenerPath: "/run/listener"}
	s.DefaultErrnoRet = withErrno(s.DefaultAction)
	for _, a := range []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64} {
		if r.IntN(2) == 0 {
			s.Architectures = append(s.Architectures, a)
		}
	}
	some := r.IntN(len(syscalls)) // rules crowd around a few calls
	for range r.IntN(16) {
		e := specs.LinuxSyscall{Action: actions[r.IntN(len(actions))]}
		e.ErrnoRet = withErrno(e.Action)
		for range 1 + r.IntN(20) {
			n := syscalls[(some+int(r.ExpFloat64()*20))%len(syscalls)].name
			if n == "write" || n == "sendmsg" {
				n = "socket"
			}
			e.Names = append(e.Names, n)
		}
		for range max(0, r.IntN(8)-4) {
			e.Args = append(e.Args, specs.LinuxSeccompArg{Index: r.UintN(6), Value: randomValue(r), ValueTwo: randomValue(r), Op: ops[r.IntN(len(ops))]})
		}
		s.Syscalls = append(s.Syscalls, e)
	}
	return s
}

// randomValue is near the borders that comparisons by halves have.
func randomValue(r *rand.Rand) uint64 {
	half := func() uint64 {
		return []uint64{0, 1, 2, 3, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff, uint64(r.Uint32())}[r.IntN(9)]
	}
	return half()<<32 | half()
}

// randomCall is about what a profile speaks of.
func randomCall(r *rand.Rand, s *specs.LinuxSeccomp) call {
	c := call{arch: []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64}[r.IntN(4)]}
	c.nr = r.Uint32N(600)
	var e *specs.LinuxSyscall
	if len(s.Syscalls) > 0 && r.IntN(4) > 0 {
		e = &s.Syscalls[r.IntN(len(s.Syscalls))]
		in := amd64
		if c.arch == unix.AUDIT_ARCH_I386 {
			in = i386
		}
		if n := number(in)(e.Names[r.IntN(len(e.Names))]); n != none {
			c.nr = uint32(n)
		}
	}
	if c.arch == unix.AUDIT_ARCH_I386 && r.IntN(8) == 0 {
		c.nr = uint32(number(i386)([]string{"socketcall", "ipc"}[r.IntN(2)]))
	}
	switch r.IntN(20) {
	case 0, 1, 2, 3, 4:
		c.nr |= x32Bit
	case 5:
		c.nr = 0xffffffff
	case 6:
		c.nr = r.Uint32()
	}
	for i := range c.args {
		c.args[i] = randomValue(r)
		if r.IntN(3) == 0 {
			c.args[i] = r.Uint64N(30)
		}
	}
	if e != nil {
		for _, a := range e.Args {
			if r.IntN(2) == 0 {
				c.args[a.Index] = a.Value + uint64(r.IntN(3)) - 1
			}
		}
	}
	if c.arch == unix.AUDIT_ARCH_I386 {
		for i := range c.args {
			c.args[i] &= 0xffffffff
		}
	}
	return c
}

func compare(t testing.TB, s *specs.LinuxSeccomp, r *rand.Rand, calls int) {
	t.Helper()
	p, err := Compile(s)
	if err != nil && strings.Contains(err.Error(), "instructions") {
		return // more conditions than the kernel takes
	}
	if err != nil {
		t.Fatal(err)
	}
	f := newFilter(t, p)
	for range calls {
		c := randomCall(r, s)
		if got, want := f.run(t, c), model(s, c); got != want {
			t.Fatalf("profile %+v\ncall %+v: the program answers %#x, the model %#x", s, c, got, want)
		}
	}
}

func TestProgramsAnswerAsTheModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		compare(t, randomProfile(r), r, 300)
	}
}

func FuzzProgram(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		compare(t, randomProfile(r), r, 200)
	})
}
