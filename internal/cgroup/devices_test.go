package cgroup

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// request is what the kernel asks a device program.
type request struct {
	kind         int
	major, minor int64
	access       uint32
}

// run interprets a program. Whatever it does not know fails the test.
func run(t testing.TB, p []insn, r request) bool {
	t.Helper()
	reg := [6]uint64{regCtx: 1}
	ctx := map[int16]uint32{ctxAccessType: r.access<<16 | uint32(r.kind), ctxMajor: uint32(r.major), ctxMinor: uint32(r.minor)}
	for pc, steps := 0, 0; ; pc, steps = pc+1, steps+1 {
		if pc < 0 || pc >= len(p) || steps > len(p) {
			t.Fatalf("instruction %d of %d: the program does not end", pc, len(p))
		}
		i := p[pc]
		jump := false
		switch i.op {
		case opLoad:
			v, ok := ctx[i.off]
			if !ok || i.src != regCtx {
				t.Fatalf("reads %d bytes into register %d", i.off, i.src)
			}
			reg[i.dst] = uint64(v)
		case opAnd:
			reg[i.dst] = uint64(uint32(reg[i.dst]) & uint32(i.imm))
		case opShift:
			reg[i.dst] = uint64(uint32(reg[i.dst]) >> i.imm)
		case opMove:
			reg[i.dst] = uint64(int64(i.imm))
		case opNotSame:
			jump = reg[i.dst] != uint64(int64(i.imm))
		case opAnyBit:
			jump = reg[i.dst]&uint64(int64(i.imm)) != 0
		case opGoto:
			jump = true
		case opExit:
			return reg[regAnswer] == 1
		default:
			t.Fatalf("opcode %#x", i.op)
		}
		if jump {
			pc += int(i.off)
		}
	}
}

// allowed is what the rules mean: for each access the last rule that covers
// it decides.
func allowed(rules []deviceRule, r request) bool {
	for _, bit := range []uint32{accMknod, accRead, accWrite} {
		if r.access&bit == 0 {
			continue
		}
		ok := false
		for _, u := range rules {
			if u.access&bit != 0 && (u.kind == devAny || u.kind == r.kind) && (u.major == anyNumber || u.major == r.major) && (u.minor == anyNumber || u.minor == r.minor) {
				ok = u.allow
			}
		}
		if !ok {
			return false
		}
	}
	return true
}

func randomRules(r *rand.Rand) []deviceRule {
	num := func() int64 { return []int64{anyNumber, 0, 1, 2, 4095}[r.IntN(5)] }
	var rules []deviceRule
	for range r.IntN(12) {
		rules = append(rules, deviceRule{allow: r.IntN(2) == 0, kind: r.IntN(3), major: num(), minor: num(), access: 1 + r.Uint32N(7)})
	}
	return rules
}

func checkProgram(t testing.TB, r *rand.Rand) {
	t.Helper()
	rules := randomRules(r)
	p := deviceProgram(rules)
	for range 100 {
		q := request{kind: 1 + r.IntN(2), major: []int64{0, 1, 2, 3, 4095}[r.IntN(5)], minor: []int64{0, 1, 2, 3, 4095}[r.IntN(5)], access: 1 + r.Uint32N(7)}
		if got, want := run(t, p, q), allowed(rules, q); got != want {
			t.Fatalf("rules %+v, request %+v: %v, want %v", rules, q, got, want)
		}
	}
}

func TestDeviceProgramsMeanTheRules(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		checkProgram(t, r)
	}
}

func FuzzDeviceProgram(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) { checkProgram(t, rand.New(rand.NewPCG(a, b))) })
}

func TestDeviceRulesAreRead(t *testing.T) {
	dev := func(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		d := specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Access: access}
		if major >= 0 {
			d.Major = &major
		}
		if minor >= 0 {
			d.Minor = &minor
		}
		return d
	}
	rules, err := deviceRules([]specs.LinuxDeviceCgroup{
		dev(true, "c", 1, 3, "rw"), dev(false, "", -1, -1, "rwm"), dev(true, "c", 1, 5, "r"), dev(true, "a", 7, -1, ""), dev(true, "u", 5, 0, "m"),
	})
	want := []deviceRule{{true, devChar, 1, 5, accRead}, {true, devAny, 7, anyNumber, accAll}, {true, devChar, 5, 0, accMknod}}
	if err != nil || !slices.Equal(rules, want) {
		t.Errorf("%+v, %v", rules, err)
	}
	var lines []string
	for _, r := range rules {
		file, l := r.linesV1()
		for _, s := range l {
			lines = append(lines, file+" "+s)
		}
	}
	if want := []string{"devices.allow c 1:5 r", "devices.allow b 7:* rwm", "devices.allow c 7:* rwm", "devices.allow c 5:0 m"}; !slices.Equal(lines, want) {
		t.Errorf("v1: %q", lines)
	}
	minus := int64(-1)
	if r, err := readRule("x", specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &minus, Access: "r"}); err != nil || r.major != anyNumber {
		t.Errorf("-1: %+v, %v", r, err)
	}
	for _, bad := range []specs.LinuxDeviceCgroup{dev(true, "x", 1, 1, "r"), dev(true, "c", 4096, 1, "r"), dev(true, "c", 1, 1<<20, "r"), dev(true, "c", 1, 1, "rx")} {
		if _, err := deviceRules([]specs.LinuxDeviceCgroup{bad}); !errors.Is(err, ErrValue) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
