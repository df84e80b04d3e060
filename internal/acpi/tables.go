package acpi

import (
	"encoding/binary"

	"github.com/hvctl/hvctl/memory"
)

// Table is one table as the guest will see it.
type Table struct {
	Signature string // "RSD PTR ", "XSDT", "FACP", "APIC", "MCFG", "WDAT", "DSDT"
	GPA       memory.GPA
	Data      []byte
}

// Tables is a complete set.
type Tables struct {
	RSDP memory.GPA // the root, for boot.Params
	End  memory.GPA // first address after the last table
	List []Table    // by rising address
}

// Writer is guest memory; *memory.Guest satisfies it.
type Writer interface {
	WriteAt(p []byte, a memory.GPA) error
}

// Write puts the tables into guest memory. Call it before any vCPU runs.
func (t *Tables) Write(m Writer) error {
	for _, x := range t.List {
		if err := m.WriteAt(x.Data, x.GPA); err != nil {
			return err
		}
	}
	return nil
}

const (
	headerSize = 36
	rsdpSize   = 36
	tableAlign = 64

	oemID   = "HVCTL "
	oemName = "HVCTLVM "
)

// Build describes p. The error wraps ErrPlatform.
func Build(p Platform) (*Tables, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	dsdt, err := p.dsdt()
	if err != nil {
		return nil, err
	}
	t := &Tables{RSDP: p.Base, End: p.Base + rsdpSize}
	at := t.add("DSDT", dsdt)
	roots := []memory.GPA{
		t.add("FACP", p.fadt(at)),
		t.add("APIC", p.madt()),
	}
	if p.PCI != nil {
		roots = append(roots, t.add("MCFG", p.PCI.mcfg()))
	}
	if p.Watchdog != nil {
		roots = append(roots, t.add("WDAT", p.Watchdog.wdat()))
	}
	xsdt := t.add("XSDT", xsdt(roots))
	t.List = append([]Table{{"RSD PTR ", t.RSDP, rsdp(xsdt)}}, t.List...)
	if t.End > p.Limit {
		return nil, wrong("tables of %d bytes, but only %d fit", t.End-p.Base, p.Limit-p.Base)
	}
	if v := p.VMGenID; v != 0 && v+16 > p.Base && v < t.End {
		return nil, wrong("VM generation id at %v lies in the tables, which end at %v", v, t.End)
	}
	if v := p.VMClock; v != 0 && v+VMClockSize > p.Base && v < t.End {
		return nil, wrong("VM clock at %v lies in the tables, which end at %v", v, t.End)
	}
	return t, nil
}

func (t *Tables) add(sig string, data []byte) memory.GPA {
	at := (t.End + tableAlign - 1) &^ (tableAlign - 1)
	t.List = append(t.List, Table{sig, at, data})
	t.End = at + memory.GPA(len(data))
	return at
}

// sealed puts the common header (ACPI 6.5, 5.2.6) before body.
func sealed(sig string, revision byte, body []byte) []byte {
	le := binary.LittleEndian
	b := append([]byte(sig), 0, 0, 0, 0, revision, 0)
	b = append(b, oemID...)
	b = append(b, oemName...)
	b = le.AppendUint32(b, 1) // OEM revision
	b = append(b, "HVCT"...)  // creator
	b = le.AppendUint32(b, 1)
	b = append(b, body...)
	le.PutUint32(b[4:], uint32(len(b)))
	b[9] = checksum(b)
	return b
}

// checksum is the byte that makes b sum to zero.
func checksum(b []byte) (c byte) {
	for _, x := range b {
		c -= x
	}
	return c
}

// rsdp is the root system description pointer (5.2.5.3), revision 2.
func rsdp(xsdt memory.GPA) []byte {
	le := binary.LittleEndian
	b := append([]byte("RSD PTR "), 0)
	b = append(b, oemID...)
	b = append(b, 2)
	b = le.AppendUint32(b, 0) // no RSDT
	b = le.AppendUint32(b, rsdpSize)
	b = le.AppendUint64(b, uint64(xsdt))
	b = append(b, 0, 0, 0, 0)
	b[8] = checksum(b[:20])
	b[32] = checksum(b)
	return b
}

func xsdt(tables []memory.GPA) []byte {
	var b []byte
	for _, a := range tables {
		b = binary.LittleEndian.AppendUint64(b, uint64(a))
	}
	return sealed("XSDT", 1, b)
}

// FADT offsets, flags and boot flags (5.2.9), from the table's start.
const (
	fadtSize         = 276
	fadtDSDT         = 40
	fadtBootArch     = 109
	fadtFlags        = 112
	fadtResetReg     = 116
	fadtResetValue   = 128
	fadtMinor        = 131
	fadtXDSDT        = 140
	fadtSleepControl = 244
	fadtSleepStatus  = 256
	fadtHypervisor   = 268

	flagWBINVD      = 1 << 0
	flagC1          = 1 << 2
	flagPowerButton = 1 << 4 // no fixed power button: it is a device, or there is none
	flagSleepButton = 1 << 5
	flagResetReg    = 1 << 10
	flagHWReduced   = 1 << 20

	arch8042   = 1 << 1
	archNoVGA  = 1 << 2
	archNoASPM = 1 << 4
	archNoRTC  = 1 << 5
)

func (p *Platform) fadt(dsdt memory.GPA) []byte {
	le := binary.LittleEndian
	t := make([]byte, fadtSize) // offsets are the table's, so room for the header
	le.PutUint32(t[fadtDSDT:], uint32(dsdt))
	le.PutUint64(t[fadtXDSDT:], uint64(dsdt))
	le.PutUint32(t[fadtFlags:], flagWBINVD|flagC1|flagPowerButton|flagSleepButton|flagResetReg|flagHWReduced)
	bootArch := uint16(archNoVGA | archNoASPM | archNoRTC)
	if p.I8042 {
		bootArch |= arch8042
	}
	le.PutUint16(t[fadtBootArch:], bootArch)
	p.ResetReg.put(t[fadtResetReg:])
	t[fadtResetValue] = p.ResetValue
	t[fadtMinor] = 5
	p.SleepControl.put(t[fadtSleepControl:])
	p.SleepStatus.put(t[fadtSleepStatus:])
	copy(t[fadtHypervisor:], "HVCTL")
	return sealed("FACP", 6, t[headerSize:])
}

// put writes r as a generic address structure (5.2.3.2) of one byte's width.
func (r Register) put(b []byte) {
	const bits, byteAccess = 8, 1
	copy(b, []byte{byte(r.Space), bits, 0, byteAccess})
	binary.LittleEndian.PutUint64(b[4:], r.Addr)
}

// MADT entries (5.2.12).
const (
	madtLAPIC, madtIOAPIC, madtLAPICNMI = 0, 1, 4
	madtX2APIC, madtX2APICNMI           = 9, 10

	cpuEnabled, cpuOnlineCapable = 1 << 0, 1 << 1
)

// madt lists the interrupt controllers. There are no 8259s to declare and no
// source overrides: in a hardware-reduced machine every device states trigger
// and polarity of its GSI itself.
func (p *Platform) madt() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, lapicGPA)
	b = le.AppendUint32(b, 0)
	wide := false
	for uid, c := range p.CPUs {
		flags := uint32(cpuEnabled)
		if c.Offline {
			flags = cpuOnlineCapable
		}
		entry := madtCPU(uid, c.APICID, flags)
		wide = wide || entry[0] == madtX2APIC
		b = append(b, entry...)
	}
	b = append(b, madtIOAPIC, 12, 0, 0)
	b = le.AppendUint32(b, uint32(p.IOAPIC))
	b = le.AppendUint32(b, 0)
	b = append(b, madtLAPICNMI, 6, 0xff, 0, 0, 1) // LINT1 of every CPU
	if wide {
		b = append(b, madtX2APICNMI, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0)
	}
	return sealed("APIC", 5, b)
}

// mcfg says where the ECAM window is (PCI firmware 3.3, 4.1.2).
func (g *PCI) mcfg() []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 8), uint64(g.ECAMBase))
	b = append(b, 0, 0, 0, byte(g.Buses-1), 0, 0, 0, 0)
	return sealed("MCFG", 1, b)
}
