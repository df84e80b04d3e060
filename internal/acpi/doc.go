// Package acpi builds the ACPI tables of a virtual machine: RSDP, XSDT, FADT,
// MADT, MCFG and DSDT, following the ACPI specification 6.5 and the PCI
// firmware specification 3.3.
//
// The machine is hardware-reduced (ACPI 6.5, 4.1): no SCI, no PM timer, no
// fixed events. What remains of them is a reset register, two sleep registers
// and a generic event device (GED), whose contract the type GED states.
//
// A hardware-reduced Linux guest also takes no interrupt from an 8259, a PIT
// or an RTC, so it has no clock to calibrate others by: its vCPUs must offer a
// TSC of known frequency (kvmclock, or CPUID leaf 0x15) and a local APIC timer
// that needs no calibration (TSC deadline). Without them it hangs early.
//
// The package writes bytes and nothing else. internal/machine decides every
// address, hands them over as a Platform and implements the registers.
package acpi
