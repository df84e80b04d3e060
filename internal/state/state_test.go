package state_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/state"
)

type counter struct{ v counterV2 }

type counterV2 struct {
	N    uint64
	Name string
}

func (c *counter) StateVersion() uint32            { return 2 }
func (c *counter) SaveState() (any, error)         { return c.v, nil }
func (c *counter) LoadState(d state.Decoder) error { return d.Into(&c.v) }
func save(t *testing.T, c *counter) (s state.Section) {
	t.Helper()
	s, err := state.Save("counter", c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRoundTrip(t *testing.T) {
	src := &counter{counterV2{1 << 63, "x"}}
	var dst counter
	if err := state.Load(save(t, src), &dst); err != nil || dst != *src {
		t.Fatalf("Load = %+v, %v; want %+v", dst, err, *src)
	}
}

func TestDamageIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(*state.Section)
		want error
	}{
		{"flipped bit", func(s *state.Section) { s.Payload = []byte(strings.Replace(string(s.Payload), "x", "y", 1)) }, state.ErrCorrupt},
		{"truncated", func(s *state.Section) { s.Payload = s.Payload[:4] }, state.ErrCorrupt},
		{"newer version", func(s *state.Section) { s.Version = 3 }, state.ErrVersion},
		{"two versions old", func(s *state.Section) { s.Version = 0 }, state.ErrVersion},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := save(t, &counter{counterV2{7, "x"}})
			c.harm(&s)
			if err := state.Load(s, &counter{}); !errors.Is(err, c.want) {
				t.Errorf("Load = %v, want %v", err, c.want)
			}
		})
	}
}

type wider struct{ counter }

func (w *wider) SaveState() (any, error) {
	return struct {
		counterV2
		Extra int
	}{w.v, 1}, nil
}

func TestUnknownFieldIsRefused(t *testing.T) {
	s, err := state.Save("counter", &wider{})
	if err != nil {
		t.Fatal(err)
	}
	if err := state.Load(s, &counter{}); !errors.Is(err, state.ErrCorrupt) {
		t.Errorf("Load = %v, want ErrCorrupt", err)
	}
}
