package acpi

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
)

// stdHID stands in for VMGENCTR while the DSDT is compiled: iasl wants ids to
// end in hexadecimal digits, but the driver to be matched does not.
const (
	ownHID = "VMGENCTR"
	stdHID = "HVCT0001"
)

func iasl(t *testing.T, dir string, args ...string) {
	t.Helper()
	c := exec.Command("iasl", args...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("iasl %v: %v\n%s", args, err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "Compilation") && !strings.Contains(line, " 0 Errors, 0 Warnings, 0 Remarks") {
			t.Errorf("iasl %v:\n%s", args, out)
		}
	}
}

// TestIASLAgrees disassembles each table, compiles the result, and expects
// the bytes back: what ACPICA reads is what was meant, in its shortest form.
func TestIASLAgrees(t *testing.T) {
	testenv.Require(t, testenv.IASL)
	for name, p := range map[string]Platform{"everything": everything(), "least": least(), "guarded": guarded(), "growing": growing()} {
		for sig, table := range mustBuild(t, p) {
			if sig == "RSD PTR " {
				continue // iasl does not know it without its neighbours
			}
			t.Run(name+"/"+sig, func(t *testing.T) {
				dir := t.TempDir()
				file := filepath.Join(dir, "t")
				write := func(ext string, b []byte) {
					t.Helper()
					if err := os.WriteFile(file+ext, b, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				write(".dat", table.Data)
				iasl(t, dir, "-d", "t.dat")
				dsl, err := os.ReadFile(file + ".dsl")
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(dsl, []byte("nvalid")) || bytes.Contains(dsl, []byte("ncorrect")) {
					t.Errorf("iasl complains in\n%s", dsl)
				}
				write(".dsl", bytes.Replace(dsl, []byte(ownHID), []byte(stdHID), 1))
				iasl(t, dir, "-p", "again", "t.dsl")
				got, err := os.ReadFile(filepath.Join(dir, "again.aml"))
				if err != nil {
					t.Fatal(err)
				}
				got = bytes.Replace(got, []byte(stdHID), []byte(ownHID), 1)
				if !bytes.Equal(got[headerSize:], table.Data[headerSize:]) {
					t.Errorf("compiled from the disassembly\n% x\nours\n% x\n%s", got[headerSize:], table.Data[headerSize:], dsl)
				}
			})
		}
	}
}

// TestMethodsAnswer runs the methods in ACPICA's interpreter.
func TestMethodsAnswer(t *testing.T) {
	testenv.Require(t, testenv.IASL)
	dsdt := mustBuild(t, everything())["DSDT"].Data
	file := filepath.Join(t.TempDir(), "dsdt.aml")
	if err := os.WriteFile(file, dsdt, 0o600); err != nil {
		t.Fatal(err)
	}
	const (
		pciDSM = "(D0 37 C9 E5 53 35 7A 4D 91 17 EA 4D 19 C3 43 4D)"
		pciOSC = "(5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66)"
		other  = "(00 11 22 33 44 55 66 77 88 99 AA BB CC DD EE FF)"
		ask    = "(00 00 00 00 1F 00 00 00 1F 00 00 00)"
		exact  = "(00 00 00 00 00 00 00 00 10 00 00 00)"
	)
	cases := []struct{ name, call, want string }{
		{"functions of _DSM", `\_SB.PCI0._DSM ` + pciDSM + " 1 0 [0]", "0000: 21 "},
		{"BARs stay", `\_SB.PCI0._DSM ` + pciDSM + " 1 5 [0]", "[Integer] = 0000000000000000"},
		{"unknown function", `\_SB.PCI0._DSM ` + pciDSM + " 1 7 [0]", "0000: 00 "},
		{"unknown _DSM", `\_SB.PCI0._DSM ` + other + " 1 5 [0]", "0000: 00 "},
		{"hot-plug stays ours", `\_SB.PCI0._OSC ` + pciOSC + " 1 3 " + ask, "0000: 10 00 00 00 1F 00 00 00 10 00 00 00"},
		{"all that is asked", `\_SB.PCI0._OSC ` + pciOSC + " 1 3 " + exact, "0000: 00 00 00 00 00 00 00 00 10 00 00 00"},
		{"unknown revision", `\_SB.PCI0._OSC ` + pciOSC + " 2 3 " + exact, "0000: 08 00 00 00 00 00 00 00 10 00 00 00"},
		{"unknown _OSC", `\_SB.PCI0._OSC ` + other + " 1 3 " + ask, "0000: 04 00 00 00 1F 00 00 00 1F 00 00 00"},
		{"a slot's address", `\_SB.PCI0.S11._ADR`, "[Integer] = 0000000000110000"},
		{"a slot's number", `\_SB.PCI0.S1F._SUN`, "[Integer] = 000000000000001F"},
		{"eject", `\_SB.PCI0.S1F._EJ0 1`, `No object was returned from evaluation of \_SB.PCI0.S1F._EJ0`},
		{"nothing plugged", `\_SB.PCI0.HPSC`, `No object was returned from evaluation of \_SB.PCI0.HPSC`},
		{"event without cause", `\_SB.GED._EVT 5`, `No object was returned from evaluation of \_SB.GED._EVT`},
	}
	var batch []string
	for _, c := range cases {
		batch = append(batch, "evaluate "+c.call)
	}
	// One run for all: acpiexec takes a second to end.
	out, err := exec.Command("acpiexec", "-b", strings.Join(batch, ";"), file).CombinedOutput()
	if err != nil {
		t.Fatalf("acpiexec: %v\n%s", err, out)
	}
	answers := strings.Split(string(out), "\nEvaluating ")[1:]
	if len(answers) != len(cases) {
		t.Fatalf("%d answers to %d calls in\n%s", len(answers), len(cases), out)
	}
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(answers[i], c.want) {
				t.Errorf("want %q in\n%s", c.want, answers[i])
			}
			for _, bad := range []string{"AE_", "Error", "Warning"} {
				if strings.Contains(answers[i], bad) {
					t.Errorf("%q in\n%s", bad, answers[i])
				}
			}
		})
	}
}

func TestBARsMayMoveUnlessKept(t *testing.T) {
	p := everything()
	kept := mustBuild(t, p)["DSDT"].Data
	p.PCI.KeepBARs = false
	moved := mustBuild(t, p)["DSDT"].Data
	five := []byte{opLEqual, opArg0 + 2, opByte, 5, opReturn}
	if !bytes.Contains(kept, append(five, opZero)) || !bytes.Contains(moved, append(five, opOne)) {
		t.Error("_DSM function 5 does not follow KeepBARs")
	}
}

// TestEventsReachDevices holds the GED's method against its contract.
func TestEventsReachDevices(t *testing.T) {
	dsdt := mustBuild(t, everything())["DSDT"].Data
	notify := func(bit byte, dev string) []byte {
		want := []byte{opAnd, opLocal0}
		if bit == 1 {
			want = append(want, opOne)
		} else {
			want = append(want, opByte, bit)
		}
		return append(append(append(want, opZero, opNotify), dev...), opByte, 0x80)
	}
	if !bytes.Contains(mustBuild(t, guarded())["DSDT"].Data, notify(byte(GEDEventVMClock), "VCLK")) {
		t.Errorf("event %#x does not notify the clock", GEDEventVMClock)
	}
	for bit, dev := range map[uint32]string{GEDEventPowerButton: "PWRB", GEDEventVMGenID: "VGEN"} {
		if !bytes.Contains(dsdt, notify(byte(bit), dev)) {
			t.Errorf("event %#x does not notify %s", bit, dev)
		}
	}
	read := append([]byte{opStore}, "GEVT`"...)
	if n := bytes.Count(dsdt, []byte("GEVT")); n != 2 || !bytes.Contains(dsdt, read) {
		t.Errorf("the register is named %d times; its one use must be a single read", n-1)
	}
	p := everything()
	p.VMGenID = 0
	if b := mustBuild(t, p)["DSDT"].Data; bytes.Contains(b, []byte("VGEN")) {
		t.Error("VGEN declared without a generation id")
	}
}

// TestSlotsAreTold holds the slots' methods against PCIHotplug's contract.
func TestSlotsAreTold(t *testing.T) {
	dsdt := mustBuild(t, everything())["DSDT"].Data
	bit17 := []byte{opDWord, 0, 0, 2, 0}
	for reg, want := range map[byte]byte{opLocal0: notifyDeviceCheck, opLocal0 + 1: notifyEjectRequest} {
		told := append(append([]byte{opAnd, reg}, bit17...), opZero, opNotify, 'S', '1', '1', '_')
		if told = append(told, shortest(want)...); !bytes.Contains(dsdt, told) {
			t.Errorf("slot 17 is not notified of %d: no % x", want, told)
		}
	}
	if ej := append(append([]byte{opStore}, bit17...), "HPEJ"...); !bytes.Contains(dsdt, ej) {
		t.Error("_EJ0 of slot 17 does not write its bit")
	}
	if call := append([]byte{opAnd, opLocal0, opByte, byte(GEDEventPCI), opZero}, "^^\x2ePCI0HPSC"...); !bytes.Contains(dsdt, call) {
		t.Error("the GED does not look at the registers")
	}
	p := everything()
	p.PCI.Hotplug = nil
	if b := mustBuild(t, p)["DSDT"].Data; bytes.Contains(b, []byte("HPSC")) {
		t.Error("slots without a controller")
	}
}

// TestProcessorsAreTold holds the processors' methods against CPUHotplug's contract.
func TestProcessorsAreTold(t *testing.T) {
	tables := mustBuild(t, growing())
	dsdt, bit2 := tables["DSDT"].Data, []byte{opByte, 4}
	for what, want := range map[string][]byte{
		"processor 34 is not told of its arrival": append(append([]byte{opAnd, opLocal0}, bit2...), opZero, opNotify, 'C', '0', '2', '2', opOne),
		"nor asked to go":                         append(append([]byte{opAnd, opLocal0 + 1}, bit2...), opZero, opNotify, 'C', '0', '2', '2', opByte, notifyEjectRequest),
		"the second word is not read":             append([]byte{opStore}, "CPU1`"...),
		"_STA of processor 34 asks not":           append(append([]byte{opAnd}, "CPP1"...), bit2...),
		"_EJ0 of processor 34 does not write":     append(append([]byte{opStore}, bit2...), "CPE1"...),
		"_MAT of processor 34 is no enabled one":  {madtLAPIC, 8, 34, 34, cpuEnabled, 0, 0, 0},
		"the GED does not look":                   append([]byte{opAnd, opLocal0, opByte, byte(GEDEventCPU), opZero}, "CPSC"...),
	} {
		if !bytes.Contains(dsdt, want) {
			t.Errorf("%s: no % x", what, want)
		}
	}
	if madt := tables["APIC"].Data; !bytes.Contains(madt, []byte{madtLAPIC, 8, 34, 34, cpuOnlineCapable, 0, 0, 0}) {
		t.Error("the MADT does not have processor 34 as one that may come")
	}
	if b := mustBuild(t, everything())["DSDT"].Data; bytes.Contains(b, []byte("CPSC")) {
		t.Error("processors come without a controller")
	}
}

func shortest(v byte) []byte {
	b, _ := encode(integer(uint64(v)))
	return b
}

func TestPkgLengthFormsMatchSpec(t *testing.T) {
	for _, c := range []struct {
		body int
		want []byte
	}{
		{0, []byte{1}},
		{62, []byte{63}},
		{63, []byte{0x41, 4}},
		{4093, []byte{0x4f, 0xff}},
		{4094, []byte{0x81, 0, 1}},
		{1<<20 - 4, []byte{0x8f, 0xff, 0xff}},
		{1<<20 - 3, []byte{0xc1, 0, 0, 1}},
	} {
		w := &amlWriter{}
		w.pkgLength(make([]byte, c.body))
		if got := w.b[:len(w.b)-c.body]; !bytes.Equal(got, c.want) || w.err != nil {
			t.Errorf("length of %d bytes is % x, want % x (%v)", c.body, got, c.want, w.err)
		}
	}
}

func TestNamesAndIntegersEncode(t *testing.T) {
	for _, c := range []struct {
		name string
		n    node
		want string
	}{
		{"root", name(`\`), "\\\x00"},
		{"padded", name("GED"), "GED_"},
		{"parent", name("^^A.B"), "^^\x2eA___B___"},
		{"three", name(`\_SB.PCI0.S1`), "\\\x2f\x03_SB_PCI0S1__"},
		{"byte", integer(255), "\x0a\xff"},
		{"word", integer(256), "\x0b\x00\x01"},
		{"dword", integer(1 << 16), "\x0c\x00\x00\x01\x00"},
		{"qword", integer(1 << 32), "\x0e\x00\x00\x00\x00\x01\x00\x00\x00"},
		{"EISA", eisaID("PNP0A08"), "\x0c\x41\xd0\x0a\x08"},
	} {
		if got, err := encode(c.n); err != nil || string(got) != c.want {
			t.Errorf("%s: % x, want % x (%v)", c.name, got, c.want, err)
		}
	}
	for _, n := range []node{
		name("LOWER.x"), name("1AB"), name("TOOLONG"), name("A..B"), eisaID("PNP0A0"), eisaID("pnp0A08"),
		text("é"), uuid("nonsense"), uuid("33DB4D5B-1FF7-401C-9657-7441C03DDXYZ"), method("M", 8, false), pkg(make([]node, 256)...),
	} {
		if b, err := encode(n); err == nil {
			t.Errorf("encoded % x, want an error", b)
		}
	}
}

// TestWindowsInResources spot-checks what iasl prints the same either way.
func TestWindowsInResources(t *testing.T) {
	r := memWindow64(0x4000000000, 1<<38, producerFixed)
	if binary.LittleEndian.Uint64(r[14:]) != 0x4000000000 || binary.LittleEndian.Uint64(r[22:]) != 0x7fffffffff || len(r) != 46 {
		t.Errorf("64-bit window % x", []byte(r))
	}
	p := everything()
	p.PCI.ECAMBase = 1 << 40
	if b := mustBuild(t, p)["DSDT"].Data; !bytes.Contains(b, memWindow64(1<<40, 256<<20, consumerFixed)) {
		t.Error("an ECAM window above 4 GiB is not claimed")
	}
}
