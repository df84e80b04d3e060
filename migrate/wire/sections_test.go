package wire_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/migrate/wire"
)

func section(path, payload string) state.Section {
	return state.Section{Path: path, Version: 2, CRC: wire.CRC(0, []byte(payload)), Payload: json.RawMessage(payload)}
}

func TestSectionsComeBack(t *testing.T) {
	want := []state.Section{section("vcpu/0", `{"a":1}`), section("x", ``), section(strings.Repeat("p", 255), `[]`)}
	b, err := wire.AppendSections([]byte("before"), want)
	if err != nil {
		t.Fatal(err)
	}
	c := wire.NewCursor(append(b[6:], 'z'))
	got := wire.Sections(c)
	if c.Err() != nil || c.Len() != 1 || len(got) != 3 {
		t.Fatalf("%d sections, %d bytes left, %v", len(got), c.Len(), c.Err())
	}
	for i := range got {
		if len(got[i].Payload) == 0 {
			got[i].Payload = json.RawMessage{}
		}
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("section %d is %+v, want %+v", i, got[i], want[i])
		}
	}
}

func TestAppendSectionsKeepsTheBounds(t *testing.T) {
	big := section("big", strings.Repeat("1", wire.MaxState/2))
	other := big
	other.Path = "other"
	for name, s := range map[string][]state.Section{
		"no path":    {section("", "{}")},
		"long path":  {section(strings.Repeat("p", 256), "{}")},
		"twice":      {section("a", "{}"), section("a", "{}")},
		"too many":   make([]state.Section, wire.MaxSections+1),
		"too big":    {section("a", strings.Repeat("1", wire.MaxSection+1))},
		"sum so big": {big, other},
	} {
		if _, err := wire.AppendSections(nil, s); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzSections(f *testing.F) {
	b, err := wire.AppendSections(nil, []state.Section{section("vcpu/0", `{"a":1}`), section("x", ``)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := wire.NewCursor(b)
		s := wire.Sections(c)
		if c.Err() != nil {
			if !errors.Is(c.Err(), wire.ErrCorrupt) || s != nil {
				t.Errorf("error %v with %d sections", c.Err(), len(s))
			}
			return
		}
		again, err := wire.AppendSections(nil, s)
		if err != nil || string(again) != string(b[:len(b)-c.Len()]) {
			t.Errorf("decoded sections encode to other bytes: %v", err)
		}
	})
}
