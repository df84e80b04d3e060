package kvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
)

func TestStatsCountExits(t *testing.T) {
	g := newGuest(t, guestOptions{})
	s, err := g.vcpu.StatsFD()
	if errors.Is(err, ErrNotSupported) {
		return // TestMissingCapabilities holds KVM to it
	}
	g.ok(err)
	defer s.Close()
	if !strings.Contains(s.ID(), "vcpu-0") {
		t.Errorf("id %q does not name the vCPU", s.ID())
	}
	before, ok, err := s.Get("exits")
	g.ok(err)
	if !ok {
		t.Fatalf("no statistic named exits among %d", len(s.Descs()))
	}
	g.code(0xe6, 0x80, 0xeb, 0xfc) // out 0x80, al; jmp back
	for range 10 {
		g.expect(ExitIO)
	}
	after, _, err := s.Get("exits")
	g.ok(err)
	if after < before+10 {
		t.Errorf("exits went from %d to %d over 10 exits", before, after)
	}
	stats, err := s.Read()
	g.ok(err)
	found := false
	for _, st := range stats {
		if len(st.Values) != st.Len {
			t.Errorf("%s: %d values, want %d", st.Name, len(st.Values), st.Len)
		}
		if st.Name == "exits" {
			found = st.Type == StatCumulative && st.Unit == StatUnitNone && st.Values[0] >= after
		}
	}
	if !found {
		t.Error("Read and Get disagree about exits")
	}
	if _, ok, err := s.Get("no such thing"); ok || err != nil {
		t.Errorf("an unknown name: %v, %v", ok, err)
	}
	vs, err := g.vm.StatsFD()
	g.ok(err)
	defer vs.Close()
	if _, err := vs.Read(); err != nil {
		t.Error(err)
	}
}

// statsImage makes a statistics file with the given descriptors.
func statsImage(nameSize uint32, names ...string) []byte {
	ne := binary.NativeEndian
	var b []byte
	u32 := func(v uint32) { b = ne.AppendUint32(b, v) }
	desc := 24 + nameSize
	data := desc + uint32(len(names))*(16+nameSize)
	for _, v := range []uint32{0, nameSize, uint32(len(names)), 24, desc, data} {
		u32(v)
	}
	b = append(b, make([]byte, nameSize)...)
	copy(b[24:], "kvm-1")
	for i, n := range names {
		u32(1 | 1<<4 | 1<<8) // instant, bytes, power of two
		b = ne.AppendUint16(b, 0xfffe)
		b = ne.AppendUint16(b, 1)
		u32(uint32(8 * i))
		u32(0)
		at := len(b)
		b = append(b, make([]byte, nameSize)...)
		copy(b[at:], n)
	}
	for i := range names {
		b = ne.AppendUint64(b, uint64(100+i))
	}
	return b
}

func TestParseStats(t *testing.T) {
	id, descs, data, err := parseStats(bytes.NewReader(statsImage(16, "one", "two")))
	if err != nil {
		t.Fatal(err)
	}
	if id != "kvm-1" || len(descs) != 2 || descs[1].Name != "two" || data != 24+16+2*32 {
		t.Errorf("got %q, %+v, %d", id, descs, data)
	}
	want := StatDesc{Name: "two", Type: StatInstant, Unit: StatUnitBytes, Base: 2, Exponent: -2, Len: 1, offset: 8}
	if descs[1] != want {
		t.Errorf("got %+v, want %+v", descs[1], want)
	}
	good := statsImage(16, "one", "two")
	for n := range 24 + 16 + 2*32 {
		if _, _, _, err := parseStats(bytes.NewReader(good[:n])); err == nil {
			t.Errorf("an image cut at %d was taken", n)
		}
	}
}

func FuzzParseStats(f *testing.F) {
	f.Add(statsImage(48, "exits", "halt_exits"))
	f.Add(statsImage(1))
	f.Add([]byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, descs, _, err := parseStats(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, d := range descs {
			if d.Len > 0xffff || d.offset > 1<<20 || strings.Contains(d.Name, "\x00") {
				t.Errorf("bad descriptor %+v", d)
			}
		}
	})
}
