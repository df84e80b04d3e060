package wire_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/migrate/wire"
)

func packed(t testing.TB, m wire.Method, pages []byte) []byte {
	t.Helper()
	var p wire.Packer
	b, err := p.Pack(make([]byte, 0, wire.PackedRoom(len(pages))), m, pages)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestUnpackReturnsWhatWasPacked(t *testing.T) {
	noise := make([]byte, 256<<10)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, m := range []wire.Method{wire.S2, wire.Zstd} {
		var u wire.Unpacker
		for name, pages := range map[string][]byte{
			"one byte": {7}, "text": bytes.Repeat([]byte("guest memory "), 20000), "noise": noise, "largest": make([]byte, wire.MaxPayload),
		} {
			b := packed(t, m, pages)
			if got, err := u.Unpack(b); err != nil || !bytes.Equal(got, pages) {
				t.Errorf("method %d, %s: %d bytes, %v", m, name, len(got), err)
			}
			if name == "text" && len(b) > len(pages)/10 {
				t.Errorf("method %d packs %d bytes of text to %d", m, len(pages), len(b))
			}
		}
	}
}

func TestUnpackRefusesWhatCannotBe(t *testing.T) {
	pages := bytes.Repeat([]byte("guest memory "), 2000)
	claim := func(b []byte, n uint32) []byte {
		b = bytes.Clone(b)
		binary.LittleEndian.PutUint32(b[1:], n)
		return b
	}
	for _, tc := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "method"},
		{"no length", []byte{1, 2}, "unpacked length"},
		{"no such method", append([]byte{9}, packed(t, wire.S2, pages)[1:]...), "method 9"},
		{"too long", claim(packed(t, wire.Zstd, pages), wire.MaxPayload+1), "want 1 to 2097152"},
		{"s2 has less", claim(packed(t, wire.S2, pages), uint32(len(pages)+1)), "has 26000 inside"},
		{"s2 has more", claim(packed(t, wire.S2, pages), uint32(len(pages)-1)), "has 26000 inside"},
		{"zstd has less", claim(packed(t, wire.Zstd, pages), uint32(len(pages)+1)), "says 26001 bytes and has 26000"},
		{"zstd has more", claim(packed(t, wire.Zstd, pages), uint32(len(pages)-1)), "corrupt"},
		{"s2 cut off", packed(t, wire.S2, pages)[:40], "corrupt"},
		{"zstd cut off", packed(t, wire.Zstd, pages)[:20], "corrupt"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var u wire.Unpacker
			if _, err := u.Unpack(tc.b); !errors.Is(err, wire.ErrCorrupt) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	for _, m := range []wire.Method{wire.S2, wire.Zstd} {
		f.Add(packed(f, m, bytes.Repeat([]byte("page"), 100)))
	}
	var u wire.Unpacker
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := u.Unpack(b)
		switch {
		case err != nil && !errors.Is(err, wire.ErrCorrupt):
			t.Errorf("error %v", err)
		case err == nil && (len(got) == 0 || len(got) > wire.MaxPayload):
			t.Errorf("%d bytes", len(got))
		}
	})
}
