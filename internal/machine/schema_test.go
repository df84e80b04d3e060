package machine

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/virtio"
)

// Package migrate declares what it needs; a Machine has it.
var (
	_ migrate.Source       = (*Machine)(nil)
	_ migrate.Destination  = (*Machine)(nil)
	_ migrate.SparseSource = (*Machine)(nil)
	_ migrate.Throttler    = (*Machine)(nil)
	_ migrate.Discarder    = (*Machine)(nil)
	_ migrate.Rehearser    = (*Machine)(nil)
	_ migrate.HugePager    = (*Machine)(nil)
)

var update = flag.Bool("update", false, "rewrite the golden files")

// What the sections of version 1 look like may never change; a change of the
// golden file is a new version.
func TestSectionsAreWhatVersion1Says(t *testing.T) {
	tsc := uint64(1) << 40
	got, err := json.MarshalIndent(map[string]any{
		"machine": shapeV1{
			MemoryBytes: 16 << 20, CPUs: 2, Transport: MMIO, Serial: true,
			Devices: []deviceShape{{"disk0", virtio.IDBlock}},
		},
		"clock":   clockV1{Nanoseconds: 5, Realtime: 6, HostTSC: &tsc, TSCKHz: 2_000_000, Stable: true},
		"irqchip": irqchipV1{Master: kvm.PICState{IMR: 0xff}, IOAPIC: kvm.IOAPICState{BaseAddress: 0xfec00000, RedirTbl: [kvm.IOAPICPins]uint64{4: 0x24}}},
		"power":   powerState{Events: 2},
	}, "", " ")
	must(t, err)
	const golden = "testdata/state-v1.golden"
	if *update {
		must(t, os.WriteFile(golden, got, 0o644))
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("differs from %s (%v); with -update it is rewritten:\n%s", golden, err, got)
	}
}
