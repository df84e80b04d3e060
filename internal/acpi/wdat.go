package acpi

import "encoding/binary"

// Watchdog is a watchdog timer behind I/O ports, of 32 bits each: one that holds
// 1 while it runs, one with its count, one that has what is left of that and that
// begins the count anew when it is written.
type Watchdog struct {
	Control, Count, Left uint16
	TickMs, Max          uint32 // of a count
}

// Actions and instructions of the table (Microsoft, "Hardware Watchdog Timers
// Design Specification", as ACPI refers to it).
const (
	wdatReset, wdatGetLeft, wdatGetCount, wdatSetCount = 1, 4, 5, 6
	wdatGetRunning, wdatSetRunning                     = 8, 9
	wdatGetStopped, wdatSetStopped                     = 10, 11

	wdatReadValue, wdatReadCount, wdatWriteValue, wdatWriteCount = 0, 1, 2, 3
)

// wdat is the watchdog action table: for each thing to do, a register and what to
// read or write there.
func (w *Watchdog) wdat() []byte {
	le := binary.LittleEndian
	entries := []struct {
		action, instruction byte
		port                uint16
		value, mask         uint32
	}{
		{wdatReset, wdatWriteValue, w.Left, 1, 0xffffffff},
		{wdatGetLeft, wdatReadCount, w.Left, 0, 0xffffffff},
		{wdatGetCount, wdatReadCount, w.Count, 0, 0xffffffff},
		{wdatSetCount, wdatWriteCount, w.Count, 0, 0xffffffff},
		{wdatGetRunning, wdatReadValue, w.Control, 1, 1},
		{wdatSetRunning, wdatWriteValue, w.Control, 1, 1},
		{wdatGetStopped, wdatReadValue, w.Control, 0, 1},
		{wdatSetStopped, wdatWriteValue, w.Control, 0, 1},
	}
	b := le.AppendUint32(nil, 32)                     // this header's length
	b = append(b, 0xff, 0, 0xff, 0xff, 0xff, 0, 0, 0) // no PCI device
	b = le.AppendUint32(b, w.TickMs)
	b = le.AppendUint32(b, w.Max)
	b = le.AppendUint32(b, 1) // the least count
	b = append(b, 1, 0, 0, 0) // enabled
	b = le.AppendUint32(b, uint32(len(entries)))
	for _, e := range entries {
		const bits, dwordAccess = 32, 3
		b = append(b, e.action, e.instruction, 0, 0, byte(SystemIO), bits, 0, dwordAccess)
		b = le.AppendUint64(b, uint64(e.port))
		b = le.AppendUint32(b, e.value)
		b = le.AppendUint32(b, e.mask)
	}
	return sealed("WDAT", 1, b)
}
