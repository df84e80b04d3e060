package seccomp

import (
	"encoding/json"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	allow  = unix.SECCOMP_RET_ALLOW
	eperm  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	kill   = uint32(unix.SECCOMP_RET_KILL_PROCESS)
)

func native(nr uint32, args ...uint64) call {
	c := call{arch: unix.AUDIT_ARCH_X86_64, nr: nr}
	copy(c.args[:], args)
	return c
}

func compat(name string, args ...uint64) call {
	c := native(uint32(number(i386)(name)), args...)
	c.arch = unix.AUDIT_ARCH_I386
	return c
}

func TestDefaultProfile(t *testing.T) {
	for _, tc := range []struct {
		name string
		caps []string
		call call
		want uint32
	}{
		{"read", nil, native(unix.SYS_READ), allow},
		{"mount", nil, native(unix.SYS_MOUNT), eperm},
		{"mount with its capability", []string{"CAP_SYS_ADMIN"}, native(unix.SYS_MOUNT), allow},
		{"keyctl for anybody", []string{"CAP_SYS_ADMIN"}, native(unix.SYS_KEYCTL), eperm},
		{"thread", nil, native(unix.SYS_CLONE, unix.CLONE_VM|unix.CLONE_THREAD), allow},
		{"new user namespace", nil, native(unix.SYS_CLONE, unix.CLONE_NEWUSER), eperm},
		{"new user namespace for root", []string{"CAP_SYS_ADMIN"}, native(unix.SYS_CLONE, unix.CLONE_NEWUSER), allow},
		{"new network namespace, high half", nil, native(unix.SYS_CLONE, unix.CLONE_NEWNET|1<<40), eperm},
		{"clone3", nil, native(unix.SYS_CLONE3), enosys},
		{"clone3 for root", []string{"CAP_SYS_ADMIN"}, native(unix.SYS_CLONE3), allow},
		{"inet socket", nil, native(unix.SYS_SOCKET, unix.AF_INET), allow},
		{"crypto socket", nil, native(unix.SYS_SOCKET, unix.AF_ALG), eperm},
		{"vsock socket", nil, native(unix.SYS_SOCKET, unix.AF_VSOCK), eperm},
		{"family between them", nil, native(unix.SYS_SOCKET, unix.AF_NFC), allow},
		{"xdp socket", nil, native(unix.SYS_SOCKET, unix.AF_XDP), allow},
		{"personality asked", nil, native(unix.SYS_PERSONALITY, 0xffffffff), allow},
		{"no address randomization", nil, native(unix.SYS_PERSONALITY, 0x40000), eperm},
		{"newer than the profile", nil, native(decidedUpTo + 1), enosys},
		{"a hole in the numbers", nil, native(400), eperm},
		{"no call at all", nil, native(0xffffffff), enosys},
		{"x32 read", nil, native(x32Bit | unix.SYS_READ), allow},
		{"x32 mount", nil, native(x32Bit | unix.SYS_MOUNT), eperm},
		{"x32 ioctl", nil, native(x32Bit | 514), allow},
		{"x32 kexec", nil, native(x32Bit | 528), eperm},
		{"i386 read", nil, compat("read"), allow},
		{"i386 mount", nil, compat("mount"), eperm},
		{"i386 umount", nil, compat("umount"), eperm},
		{"i386 socketcall", nil, compat("socketcall", 1), allow},
		{"i386 clock_settime64", nil, compat("clock_settime64"), eperm},
		{"i386 clock_settime64 with its capability", []string{"CAP_SYS_TIME"}, compat("clock_settime64"), allow},
		{"another machine", nil, call{arch: unix.AUDIT_ARCH_AARCH64}, kill},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := Compile(Default(tc.caps))
			if err != nil {
				t.Fatal(err)
			}
			if got := newFilter(t, p).run(t, tc.call); got != tc.want {
				t.Errorf("answer %#x, want %#x", got, tc.want)
			}
		})
	}
}

func TestDefaultIsAsTheModelSays(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	compare(t, Default(nil), r, 20000)
	compare(t, Default([]string{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE"}), r, 20000)
}

var update = flag.Bool("update", false, "rewrite the golden files")

// The table of system calls grows with golang.org/x/sys; what a workload may
// call does not, unless somebody says so here.
func TestDefaultAllowsWhatWasDecided(t *testing.T) {
	names := slices.Clone(Default(nil).Syscalls[0].Names)
	slices.Sort(names)
	got := strings.Join(names, "\n") + "\n"
	const golden = "testdata/default.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (see -update)", golden)
	}
}

func TestWithheldNamesExist(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range withheld {
		for n := range strings.FieldsSeq(w.names) {
			if find(n) == nil || seen[n] {
				t.Errorf("%s: unknown or named twice", n)
			}
			seen[n] = true
		}
	}
}

func TestTableIsSorted(t *testing.T) {
	if !slices.IsSortedFunc(syscalls[:], func(a, b syscall) int { return strings.Compare(a.name, b.name) }) {
		t.Error("the table is not sorted: find would miss calls")
	}
	for _, tc := range []struct {
		name        string
		amd64, i386 int
	}{
		{"read", unix.SYS_READ, 3}, {"openat2", unix.SYS_OPENAT2, 437}, {"umount", none, 22}, {"arch_prctl", unix.SYS_ARCH_PRCTL, 384}, {"no_such", none, none},
	} {
		if a, b := number(amd64)(tc.name), number(i386)(tc.name); a != tc.amd64 || b != tc.i386 {
			t.Errorf("%s: %d and %d, want %d and %d", tc.name, a, b, tc.amd64, tc.i386)
		}
	}
	if n := number(amd64x32)("pwritev2"); n != 547 {
		t.Errorf("x32 pwritev2 is %d, not 547: the list has a gap", n)
	}
}

func TestRulesKeepTheirMeaning(t *testing.T) {
	arg := func(i uint, op specs.LinuxSeccompOperator, v, w uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Op: op, Value: v, ValueTwo: w}
	}
	one := func(action specs.LinuxSeccompAction, name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: action, Args: args}
	}
	deny := func(rules ...specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: rules}
	}
	high := uint64(1) << 32
	for _, tc := range []struct {
		name string
		p    *specs.LinuxSeccomp
		call call
		want uint32
	}{
		{"default errno", &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: new(uint(7))}, native(1), unix.SECCOMP_RET_ERRNO | 7},
		{"both conditions", deny(one(specs.ActAllow, "close", arg(0, specs.OpEqualTo, 1, 0), arg(1, specs.OpEqualTo, 2, 0))), native(3, 1, 2), allow},
		{"one of two", deny(one(specs.ActAllow, "close", arg(0, specs.OpEqualTo, 1, 0), arg(1, specs.OpEqualTo, 2, 0))), native(3, 1, 3), eperm},
		{"alternatives", deny(one(specs.ActAllow, "close", arg(0, specs.OpEqualTo, 1, 0), arg(0, specs.OpEqualTo, 2, 0))), native(3, 2), allow},
		{"high half differs", deny(one(specs.ActAllow, "close", arg(0, specs.OpEqualTo, 1, 0))), native(3, high|1), eperm},
		{"greater by the high half", deny(one(specs.ActAllow, "close", arg(0, specs.OpGreaterThan, 5, 0))), native(3, high), allow},
		{"less by the high half", deny(one(specs.ActAllow, "close", arg(0, specs.OpLessThan, high, 0))), native(3, 0xffffffff), allow},
		{"mask", deny(one(specs.ActAllow, "close", arg(0, specs.OpMaskedEqual, 0xf0, 0x10))), native(3, 0xf1f), allow},
		{"conditions before the rest", deny(one(specs.ActKillProcess, "close"), one(specs.ActAllow, "close", arg(0, specs.OpEqualTo, 1, 0))), native(3, 1), allow},
		{"first of two", deny(one(specs.ActAllow, "close"), one(specs.ActKillProcess, "close")), native(3), allow},
		{"x32 is not listed", deny(one(specs.ActAllow, "close")), native(x32Bit | 3), kill},
		{"i386 is not listed", deny(one(specs.ActAllow, "close")), compat("close"), kill},
		{"a newer call is allowed by default", &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{one(specs.ActErrno, "close")}}, native(1000), allow},
		{"no rules, no newer calls", deny(), native(1000), eperm},
		{
			"socketcall cannot go round a rule", &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86}, Syscalls: []specs.LinuxSyscall{one(specs.ActErrno, "connect")},
			}, compat("socketcall", 3), eperm,
		},
		{
			"ipc with a version", &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86}, Syscalls: []specs.LinuxSyscall{one(specs.ActErrno, "shmat")},
			}, compat("ipc", 1<<16|21), eperm,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := Compile(tc.p)
			if err != nil {
				t.Fatal(err)
			}
			if got := newFilter(t, p).run(t, tc.call); got != tc.want {
				t.Errorf("answer %#x, want %#x", got, tc.want)
			}
			if got := model(tc.p, tc.call); got != tc.want {
				t.Errorf("the model answers %#x, want %#x", got, tc.want)
			}
		})
	}
}

func TestBadProfilesAreRefusedByField(t *testing.T) {
	for _, tc := range []struct{ name, json, field string }{
		{"default action", `{"defaultAction":"SCMP_ACT_NOPE"}`, "defaultAction"},
		{"no default action", `{}`, "defaultAction"},
		{"notify by default", `{"defaultAction":"SCMP_ACT_NOTIFY"}`, "defaultAction"},
		{"errno for kill", `{"defaultAction":"SCMP_ACT_KILL","defaultErrnoRet":1}`, "defaultAction"},
		{"errno too large", `{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":5000}`, "defaultAction"},
		{"architecture", `{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_Z80"]}`, "architectures"},
		{"flag", `{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}`, "flags"},
		{"action", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"X"}]}`, "syscalls[0]"},
		{"no names", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_ERRNO"}]}`, "syscalls[0].names"},
		{"errno for allow", `{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","errnoRet":1}]}`, "syscalls[0]"},
		{"argument", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}`, "syscalls[0].args[0]"},
		{"operator", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":0,"op":"X"}]}]}`, "syscalls[0].args[0]"},
		{"notify without listener", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}`, "listenerPath"},
		{"notify for sendmsg", `{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x","syscalls":[{"names":["mount","sendmsg"],"action":"SCMP_ACT_NOTIFY"}]}`, "syscalls[0]"},
		{"notify for write", `{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}`, "syscalls[0]"},
		{"metadata alone", `{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"x"}`, "listenerMetadata"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var s specs.LinuxSeccomp
			if err := json.Unmarshal([]byte(tc.json), &s); err != nil {
				t.Fatal(err)
			}
			_, err := Compile(&s)
			if !errors.Is(err, ErrProfile) || !strings.Contains(err.Error(), "linux.seccomp."+tc.field+":") {
				t.Errorf("error %v, want one of linux.seccomp.%s", err, tc.field)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	for _, tc := range []struct {
		name   string
		flags  []specs.LinuxSeccompFlag
		notify bool
		want   uint32
	}{
		{"none given", nil, false, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{"none wanted", []specs.LinuxSeccompFlag{}, false, 0},
		{"log", []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}, false, unix.SECCOMP_FILTER_FLAG_LOG},
		{"killable without listener", []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}, false, 0},
		{"killable", []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}, true, unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER},
		{"all threads", []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC"}, false, 0},
	} {
		if got, err := flags(tc.flags, tc.notify); err != nil || got != tc.want {
			t.Errorf("%s: %#x, %v; want %#x", tc.name, got, err, tc.want)
		}
	}
}

func TestUnknownNamesArePassedOver(t *testing.T) {
	p, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read", "riscv_hwprobe", "recv"}, Action: specs.ActAllow},
	}})
	if err != nil || !slices.Equal(p.Unknown, []string{"riscv_hwprobe"}) {
		t.Errorf("unknown %q, %v", p.Unknown, err)
	}
}

func TestTooLongProfileIsRefused(t *testing.T) {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range uint64(1000) {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{
			Names: []string{"ioctl"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 1, Value: math.MaxUint64 - i, Op: specs.OpEqualTo}},
		})
	}
	if _, err := Compile(s); !errors.Is(err, ErrProfile) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkCompileDefault(b *testing.B) {
	s := Default(nil)
	var p *Program
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if p, err = Compile(s); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(p.Len()), "instructions")
}
