package acpi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/hvctl/hvctl/memory"
)

var update = flag.Bool("update", false, "rewrite golden files")

// everything is a platform with each device, wide APIC ids and a spare CPU.
func everything() Platform {
	p := Platform{
		Base: 0xe0000, Limit: 0x100000, IOAPIC: 0xfec00000,
		PCI: &PCI{
			ECAMBase: 0xe8000000, Buses: 256,
			MMIO32: Window{0xc0000000, 0x20000000}, MMIO64: Window{0x4000000000, 0x4000000000},
			CF8: true, PortFirst: 0x1000, PortLast: 0xffff, KeepBARs: true,
			Hotplug: &PCIHotplug{Registers: Register{SystemIO, 0x640}, Slots: []int{1, 17, 31}},
		},
		COM1: true, I8042: true, PanicPort: 0x505,
		GED: &GED{Register{SystemMemory, 0xfed50000}, 5}, VMGenID: 0xff000,
		ResetReg: Register{SystemIO, 0xcf9}, ResetValue: 6,
		SleepControl: Register{SystemIO, 0x600}, SleepStatus: Register{SystemIO, 0x601},
	}
	for _, id := range []uint32{0, 1, 254, 255} {
		p.CPUs = append(p.CPUs, CPU{APICID: id})
	}
	p.CPUs = append(p.CPUs, CPU{APICID: 2, Offline: true})
	for i := range 3 {
		p.VirtioMMIO = append(p.VirtioMMIO, VirtioMMIO{memory.GPA(0xfed00000 + i*0x1000), 0x1000, uint32(6 + i)})
	}
	return p
}

// least is the smallest platform that can be switched off.
func least() Platform {
	return Platform{
		Base: 0xe0000, Limit: 0x100000, IOAPIC: 0xfec00000, CPUs: []CPU{{}},
		ResetReg:     Register{SystemMemory, 0xfed60000},
		SleepControl: Register{SystemMemory, 0xfed60001}, SleepStatus: Register{SystemMemory, 0xfed60002},
	}
}

func mustBuild(t *testing.T, p Platform) map[string]Table {
	t.Helper()
	ts, err := Build(p)
	if err != nil {
		t.Fatal(err)
	}
	m := make(map[string]Table)
	for _, x := range ts.List {
		m[x.Signature] = x
	}
	return m
}

// TestTablesLinkUp walks the tables as a guest does, from the RSDP.
// guarded has a watchdog and a VM clock.
func guarded() Platform {
	p := least()
	p.GED, p.VMClock = &GED{Register{SystemIO, 0x600}, 5}, 0xfe000
	p.Watchdog = &Watchdog{Control: 0x610, Count: 0x614, Left: 0x618, TickMs: 100, Max: 0xffff}
	return p
}

// growing has processors that come and go, in two words of the controller.
func growing() Platform {
	p := least()
	p.GED, p.CPUHotplug = &GED{Register{SystemIO, 0x600}, 5}, &CPUHotplug{Registers: Register{SystemIO, 0x660}}
	for i := range uint32(35) {
		p.CPUs = append(p.CPUs, CPU{APICID: i + 1, Offline: i > 0})
	}
	return p
}

func TestTablesLinkUp(t *testing.T) {
	le := binary.LittleEndian
	for name, p := range map[string]Platform{"everything": everything(), "least": least()} {
		t.Run(name, func(t *testing.T) {
			ts, err := Build(p)
			if err != nil {
				t.Fatal(err)
			}
			ram := make(fakeRAM, 1<<20)
			if err := ts.Write(ram); err != nil {
				t.Fatal(err)
			}
			table := func(at uint64, sig string) []byte {
				n := le.Uint32(ram[at+4:])
				b := ram[at : at+uint64(n)]
				if string(b[:4]) != sig || checksum(b) != 0 {
					t.Fatalf("table at %#x: signature %q (want %q), checksum off by %d", at, b[:4], sig, checksum(b))
				}
				return b
			}
			root := ram[ts.RSDP:]
			if string(root[:8]) != "RSD PTR " || root[15] != 2 || checksum(root[:20]) != 0 || checksum(root[:36]) != 0 {
				t.Fatalf("RSDP % x", root[:36])
			}
			want := []string{"FACP", "APIC"}
			if p.PCI != nil {
				want = append(want, "MCFG")
			}
			list := table(le.Uint64(root[24:]), "XSDT")[headerSize:]
			if len(list) != 8*len(want) {
				t.Fatalf("XSDT has %d bytes of entries, want %d tables", len(list), len(want))
			}
			for i, sig := range want {
				b := table(le.Uint64(list[8*i:]), sig)
				if sig == "FACP" {
					table(le.Uint64(b[fadtXDSDT:]), "DSDT")
				}
			}
			last := ts.List[len(ts.List)-1]
			if end := last.GPA + memory.GPA(len(last.Data)); end != ts.End || end > p.Limit {
				t.Errorf("End %v, last table ends at %v, limit %v", ts.End, end, p.Limit)
			}
		})
	}
}

func TestFADTIsHardwareReduced(t *testing.T) {
	le := binary.LittleEndian
	p := everything()
	f := mustBuild(t, p)["FACP"].Data
	if len(f) != 276 || f[8] != 6 {
		t.Fatalf("FADT of %d bytes, revision %d", len(f), f[8])
	}
	flags := le.Uint32(f[112:])
	if flags>>20&1 != 1 || flags>>10&1 != 1 || flags>>4&1 != 1 {
		t.Errorf("flags %#x lack HW_REDUCED, RESET_REG_SUP or PWR_BUTTON", flags)
	}
	if got := le.Uint16(f[109:]); got != 0x36 {
		t.Errorf("boot flags %#x, want 8042, no VGA, no ASPM, no RTC", got)
	}
	p.I8042 = false
	if got := le.Uint16(mustBuild(t, p)["FACP"].Data[109:]); got != 0x34 {
		t.Errorf("boot flags without i8042 %#x", got)
	}
	for at, want := range map[int]string{
		116: "\x01\x08\x00\x01\xf9\x0c\x00\x00\x00\x00\x00\x00\x06", // with its value
		244: "\x01\x08\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00",
		256: "\x01\x08\x00\x01\x01\x06\x00\x00\x00\x00\x00\x00",
	} {
		if got := f[at : at+len(want)]; string(got) != want {
			t.Errorf("register at offset %d is % x, want % x", at, got, want)
		}
	}
	if S5Value != 0x34 {
		t.Errorf("S5Value %#x", S5Value)
	}
}

func TestMADTListsEveryCPU(t *testing.T) {
	b := mustBuild(t, everything())["APIC"].Data[headerSize+8:]
	want := []byte{
		0, 8, 0, 0, 1, 0, 0, 0,
		0, 8, 1, 1, 1, 0, 0, 0,
		0, 8, 2, 254, 1, 0, 0, 0,
		9, 16, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, // 255 is the broadcast id
		0, 8, 4, 2, 2, 0, 0, 0, // may come online
		1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0,
		4, 6, 0xff, 0, 0, 1,
		10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0,
	}
	if !bytes.Equal(b, want) {
		t.Errorf("MADT entries\n% x, want\n% x", b, want)
	}
	// The UID has one byte in the small entry as well.
	p := least()
	for i := 1; i < 300; i++ {
		p.CPUs = append(p.CPUs, CPU{APICID: 1000 + uint32(i)})
	}
	p.CPUs[299].APICID = 7
	b = mustBuild(t, p)["APIC"].Data[headerSize+8:]
	if want := []byte{9, 16, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 43, 1, 0, 0}; !bytes.Contains(b, want) {
		t.Error("CPU 299 with APIC id 7 has no x2APIC entry")
	}
}

func TestMCFGCoversECAM(t *testing.T) {
	b := mustBuild(t, everything())["MCFG"].Data[headerSize:]
	want := append(make([]byte, 8), 0, 0, 0, 0xe8, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0)
	if !bytes.Equal(b, want) {
		t.Errorf("MCFG % x, want % x", b, want)
	}
}

func TestBuildGolden(t *testing.T) {
	for name, p := range map[string]Platform{"everything": everything(), "least": least(), "guarded": guarded()} {
		t.Run(name, func(t *testing.T) {
			ts, err := Build(p)
			if err != nil {
				t.Fatal(err)
			}
			var all []byte
			for _, x := range ts.List {
				all = append(append(all, make([]byte, int(x.GPA-ts.RSDP)-len(all))...), x.Data...)
			}
			path := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(path, all, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(all, want) {
				t.Errorf("tables differ from %s; if that is meant, run with -update", path)
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Platform)
		want   string
	}{
		{"no CPU", func(p *Platform) { p.CPUs = nil }, "0 CPUs, want 1 to 4096"},
		{"same APIC id", func(p *Platform) { p.CPUs[1].APICID = 0 }, "two CPUs with APIC id 0"},
		{"CPU 0 offline", func(p *Platform) { p.CPUs[0].Offline = true }, "CPU 0 is offline"},
		{"CPU registers nowhere", func(p *Platform) { p.CPUHotplug = &CPUHotplug{} }, "CPU hotplug needs a GED and registers, and has room for 64 CPUs, not 5"},
		{"unaligned base", func(p *Platform) { p.Base++ }, "tables from 0xe0001 to 0x100000"},
		{"no room", func(p *Platform) { p.Limit = p.Base + 1024; p.VMGenID = 0 }, "tables of 1980 bytes, but only 1024 fit"},
		{"no I/O APIC", func(p *Platform) { p.IOAPIC = 0 }, "I/O APIC at 0x0"},
		{"no reset", func(p *Platform) { p.ResetReg = Register{} }, "no reset register"},
		{"no sleep status", func(p *Platform) { p.SleepStatus.Addr = 0 }, "no sleep status register"},
		{"GED nowhere", func(p *Platform) { p.GED.Register.Addr = 0 }, "GED without a register"},
		{"generation id without GED", func(p *Platform) { p.GED = nil }, "VM generation id at 0xff000 needs a GED and 8-byte alignment"},
		{"generation id in tables", func(p *Platform) { p.VMGenID = p.Base + 8 }, "VM generation id at 0xe0008 lies in the tables, which end at 0xe083c"},
		{"clock without GED", func(p *Platform) { p.GED, p.VMGenID, p.VMClock = nil, 0, 0xfe000 }, "VM clock at 0xfe000 needs a GED and a page of its own"},
		{"clock in tables", func(p *Platform) { p.VMClock = p.Base }, "VM clock at 0xe0000 lies in the tables, which end at 0xe087c"},
		{"too many buses", func(p *Platform) { p.PCI.Buses = 257 }, "ECAM at 0xe8000000 for 257 buses"},
		{"ECAM over devices", func(p *Platform) { p.PCI.ECAMBase = 0xf0000000 }, "ECAM at 0xf0000000 overlaps I/O APIC at 0xfec00000"},
		{"ECAM over window", func(p *Platform) { p.PCI.MMIO32.Size = 0x30000000 }, "32-bit PCI window at 0xc0000000 overlaps ECAM at 0xe8000000"},
		{"window over 4 GiB", func(p *Platform) { p.PCI.MMIO32 = Window{0xfff00000, 2 << 20} }, "32-bit PCI window at 0xfff00000 of 0x200000 bytes"},
		{"window wraps", func(p *Platform) { p.PCI.MMIO64.Size = ^uint64(0) }, "64-bit PCI window at 0x4000000000 of 0xffffffffffffffff bytes"},
		{"slot 0", func(p *Platform) { p.PCI.Hotplug.Slots[0] = 0 }, "PCI hotplug slots [0 17 31]"},
		{"slots twice", func(p *Platform) { p.PCI.Hotplug.Slots[1] = 1 }, "PCI hotplug slots [1 1 31]"},
		{"slots without registers", func(p *Platform) { p.PCI.Hotplug.Registers.Addr = 0 }, "PCI hotplug without registers"},
		{"slots without GED", func(p *Platform) { p.GED, p.VMGenID = nil, 0 }, "PCI hotplug needs a GED"},
		{"ports backwards", func(p *Platform) { p.PCI.PortLast = 1 }, "PCI ports 0x1000 to 0x1"},
		{"virtio unaligned", func(p *Platform) { p.VirtioMMIO[1].Base += 0x800 }, "virtio-mmio device 1 at 0xfed01800 of 0x1000 bytes"},
		{"virtio twice", func(p *Platform) { p.VirtioMMIO[1].Base = p.VirtioMMIO[0].Base }, "virtio-mmio device 1 at 0xfed00000 overlaps virtio-mmio device 0 at 0xfed00000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := everything()
			c.change(&p)
			_, err := Build(p)
			if !errors.Is(err, ErrPlatform) || err.Error() != "bad ACPI platform: "+c.want {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

// fakeRAM is guest memory from address 0 on.
type fakeRAM []byte

func (r fakeRAM) WriteAt(p []byte, a memory.GPA) error {
	if a > memory.GPA(len(r)) || uint64(len(p)) > uint64(len(r))-uint64(a) {
		return memory.ErrOutOfRange
	}
	copy(r[a:], p)
	return nil
}

var _ Writer = (*memory.Guest)(nil)
