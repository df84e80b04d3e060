package machine

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/acpi"
	"github.com/hvctl/hvctl/internal/boot"
	"github.com/hvctl/hvctl/internal/irq"
	"github.com/hvctl/hvctl/internal/machine/limits"
	"github.com/hvctl/hvctl/memory"
)

func TestConfigCheck(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Config)
		says   string // "": it is fine
	}{
		{"least", func(*Config) {}, ""},
		{"most", func(c *Config) { c.CPUs, c.MemoryBytes, c.Transport = limits.MaxCPUs, limits.MaxMemory, PCI }, ""},
		{"huge pages", func(c *Config) { c.MemoryBytes, c.HugePages = 64<<20, true }, ""},
		{"negative CPUs", func(c *Config) { c.CPUs = -1 }, "-1 vCPUs; 1 to 64"},
		{"CPUs", func(c *Config) { c.CPUs = limits.MaxCPUs + 1 }, "65 vCPUs; 1 to 64"},
		{"no memory", func(c *Config) { c.MemoryBytes = 0 }, "0 MiB of memory; 16 to"},
		{"little memory", func(c *Config) { c.MemoryBytes = limits.MinMemory - 4096 }, "15 MiB"},
		{"much memory", func(c *Config) { c.MemoryBytes = limits.MaxMemory + 4096 }, "of memory"},
		{"odd memory", func(c *Config) { c.MemoryBytes = 64<<20 + 1 }, "multiple of the 4096-byte page"},
		{"odd huge memory", func(c *Config) { c.MemoryBytes, c.HugePages = 65<<20, true }, "2 MiB huge page"},
		{"transport", func(c *Config) { c.Transport = "isa" }, `transport "isa"; there are mmio and pci`},
		{"kernel", func(c *Config) { c.Kernel = "" }, "no kernel"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := Config{MemoryBytes: limits.MinMemory, Kernel: "k"}
			tc.change(&c)
			err := c.check()
			if tc.says == "" {
				if err != nil || c.CPUs == 0 || c.Transport == "" || c.Log == nil || c.Mark == nil {
					t.Errorf("%v; defaults %+v", err, c)
				}
			} else if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v, want %q", err, tc.says)
			}
		})
	}
}

// TestLayoutDoesNotOverlap checks the address map for every kind of RAM size.
func TestLayoutDoesNotOverlap(t *testing.T) {
	const pins = irq.Pins - irq.FirstFree
	fixed := []memory.Span{
		{GPA: virtioMMIOBase, Size: virtioMMIOStep * pins},
		{GPA: pci32Base, Size: pci32Size},
		{GPA: ecamBase, Size: ecamBuses << 20},
		{GPA: ioapicBase, Size: 0x1000},
		{GPA: 0xfee00000, Size: 0x1000},
		{GPA: identityBase, Size: 0x1000},
		{GPA: tssBase, Size: 0x3000},
		{GPA: pci64Base, Size: pci64Size},
	}
	for _, size := range []uint64{
		limits.MinMemory, 128 << 20, 3<<30 - 4096, 3 << 30, 3<<30 + 4096, 4 << 30, 5 << 30, 64 << 30, limits.MaxMemory,
	} {
		mem, err := memory.New(memory.Options{Size: size})
		if err != nil {
			t.Fatalf("%d MiB: %v", size>>20, err) // lazily populated: any size is cheap
		}
		all := fixed
		var total uint64
		for _, r := range mem.Regions() {
			all = append(slices.Clip(all), memory.Span{GPA: r.GPA, Size: r.Size})
			total += r.Size
		}
		if total != size {
			t.Errorf("%d MiB asked, %d MiB laid out", size>>20, total>>20)
		}
		for i, a := range all {
			for _, b := range all[:i] {
				if uint64(a.GPA) < uint64(b.GPA)+b.Size && uint64(b.GPA) < uint64(a.GPA)+a.Size {
					t.Errorf("%d MiB: %v+%#x overlaps %v+%#x", size>>20, a.GPA, a.Size, b.GPA, b.Size)
				}
			}
			if end := uint64(a.GPA) + a.Size; end > 1<<39 {
				t.Errorf("%v+%#x lies above the 39 bits that every host has", a.GPA, a.Size)
			}
		}
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
	}
	if vmGenIDAddr < boot.ACPIBase || vmGenIDAddr+0x1000 > boot.ACPILimit || tablesLimit > vmGenIDAddr {
		t.Errorf("generation id at %v, tables to %v", vmGenIDAddr, tablesLimit)
	}
}

func TestDoorbellsSayWhatTheyMatch(t *testing.T) {
	n := uint32(3)
	if e := ioevent(0xc0000050, 4, &n); e.Addr != 0xc0000050 || e.Len != 4 || !e.Match || e.DataMatch != 3 || e.PIO {
		t.Errorf("matched: %+v", e)
	}
	if e := ioevent(0xc0000050, 0, nil); e.Len != 0 || e.Match || e.DataMatch != 0 || e.PIO {
		t.Errorf("any: %+v", e)
	}
}

// TestPlatformTellsTheTruth holds what ACPI says against what the machine has.
func TestPlatformTellsTheTruth(t *testing.T) {
	devs := []Device{{Kind: "rng"}, {Kind: "rng"}}
	devs[0].Args.ID, devs[1].Args.ID = "a", "b"
	for _, tr := range []Transport{MMIO, PCI} {
		m := newMachine(t, Config{CPUs: 5, Transport: tr, Devices: devs, SerialOut: discard{}}, spin...)
		p := m.platform
		if _, err := acpi.Build(p); err != nil {
			t.Fatal(err)
		}
		if len(p.CPUs) != 5 || !p.COM1 || p.GED == nil || p.PanicPort != portPanic {
			t.Errorf("%s: %+v", tr, p)
		}
		if tr == PCI && (p.PCI == nil || len(p.VirtioMMIO) != 0) || tr == MMIO && (p.PCI != nil || len(p.VirtioMMIO) != 2) {
			t.Errorf("%s: %d virtio-mmio devices, PCI %v", tr, len(p.VirtioMMIO), p.PCI)
		}
		seen := map[uint32]bool{p.GED.GSI: true}
		for _, v := range p.VirtioMMIO {
			var magic [4]byte
			m.mmio.Read(uint64(v.Base), magic[:])
			if string(magic[:]) != "virt" || seen[v.GSI] {
				t.Errorf("device at %v: magic %q, GSI %d", v.Base, magic, v.GSI)
			}
			seen[v.GSI] = true
		}
		for _, port := range []uint64{p.GED.Register.Addr, p.ResetReg.Addr, p.SleepControl.Addr, p.SleepStatus.Addr, uint64(p.PanicPort), 0x3f8} {
			if b := []byte{0}; !m.pio.Read(port, b) {
				t.Errorf("%s: nobody answers port %#x", tr, port)
			}
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
