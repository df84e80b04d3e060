package userns

import (
	"reflect"
	"strings"
	"testing"
)

func TestRangesOfAUser(t *testing.T) {
	names := []string{"1000", "alice"}
	for _, tc := range []struct {
		name, file string
		want       []Range
	}{
		{"by name", "bob:1:2\nalice:100000:65536\n", []Range{{1, 100000, 65536}}},
		{"by number, and two", "1000:100000:10\nalice:300000:5\n", []Range{{1, 100000, 10}, {11, 300000, 5}}},
		{"nobody's", ":1:2\nalic:1:2\n", nil},
		{"nonsense", "alice\nalice:1\nalice:x:1\nalice:1:x\nalice:1:0\nalice:1:2:3\nalice:-1:5\n", nil},
		{"beyond the last ID", "alice:4294967290:100\nalice:1:4294967295\nalice:5:6\n", []Range{{1, 5, 6}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := parse(strings.NewReader(tc.file), names); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestCovers(t *testing.T) {
	m := Mapping{UIDs: []Range{{0, 1000, 1}, {1, 100000, 10}}, GIDs: own(1000)}
	for _, tc := range []struct {
		uid, gid uint32
		want     bool
	}{{0, 0, true}, {10, 0, true}, {11, 0, false}, {1, 1, false}, {most, 0, false}} {
		if got := m.Covers(tc.uid, tc.gid); got != tc.want {
			t.Errorf("%d:%d is there: %v", tc.uid, tc.gid, got)
		}
	}
}

func TestTheHostsNamespaceIsKnown(t *testing.T) {
	if !(Mapping{UIDs: []Range{{Size: most}}}).Initial() || (Mapping{UIDs: own(0)}).Initial() {
		t.Error("the host's mapping is the one of all IDs")
	}
	if _, err := Current(); err != nil {
		t.Error(err)
	}
}

func FuzzSubID(f *testing.F) {
	f.Add("alice:100000:65536\n1000:4294967295:1\n")
	f.Fuzz(func(t *testing.T, file string) {
		next := uint64(1)
		for _, r := range parse(strings.NewReader(file), []string{"1000", "alice"}) {
			if uint64(r.Inside) != next || r.Size == 0 || uint64(r.Outside)+uint64(r.Size) > most {
				t.Fatalf("%q gives %v", file, r)
			}
			next += uint64(r.Size)
		}
	})
}
