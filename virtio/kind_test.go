package virtio_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/devices"
)

func TestRegistryNamesWhatItDoesNotKnow(t *testing.T) {
	made := 0
	r := virtio.NewRegistry(virtio.Kind{
		Name: "toy", Options: []virtio.Option{{Key: "path"}},
		New: func(virtio.Args) (virtio.Device, error) { made++; return newPuppet(), nil },
	})
	for _, c := range []struct {
		kind, key, hint string
	}{{"tpy", "path", "toy"}, {"toy", "pth", "path"}} {
		_, err := r.New(c.kind, virtio.Args{ID: "x", Values: map[string]string{c.key: ""}})
		if !errors.Is(err, virtio.ErrArgs) || !strings.Contains(err.Error(), c.hint) {
			t.Errorf("New(%q, %q) = %v; want ErrArgs that names %q", c.kind, c.key, err, c.hint)
		}
	}
	if _, err := r.New("toy", virtio.Args{Values: map[string]string{"path": "/"}}); err != nil || made != 1 {
		t.Errorf("New = %v, made %d", err, made)
	}
}

func TestArgs(t *testing.T) {
	a := virtio.Args{ID: "x", Values: map[string]string{"on": "", "off": "off", "bad": "maybe", "n": "0x10", "many": "99"}}
	if on, err := a.Bool("on", false); !on || err != nil {
		t.Error(on, err)
	}
	if off, err := a.Bool("off", true); off || err != nil {
		t.Error(off, err)
	}
	if def, err := a.Bool("none", true); !def || err != nil {
		t.Error(def, err)
	}
	if _, err := a.Bool("bad", true); !errors.Is(err, virtio.ErrArgs) {
		t.Error(err)
	}
	if n, err := a.Uint("n", 0, 1, 20); n != 16 || err != nil {
		t.Error(n, err)
	}
	if _, err := a.Uint("many", 0, 1, 20); !errors.Is(err, virtio.ErrArgs) {
		t.Error(err)
	}
	if _, err := a.Uint("bad", 0, 1, 20); !errors.Is(err, virtio.ErrArgs) {
		t.Error(err)
	}
	if s := a.String("none", "def"); s != "def" {
		t.Error(s)
	}
}

func TestDeviceListIsSound(t *testing.T) {
	r := devices.Registry() // panics on a bad list
	for _, k := range r.Kinds() {
		if k.Help == "" {
			t.Errorf("%s has no help line", k.Name)
		}
	}
}

func TestStatusSteps(t *testing.T) {
	for _, c := range []struct {
		from, write, to virtio.Status
		ok              bool
	}{
		{0, 1, 1, true},
		{0, 3, 3, true},
		{0, 2, 0, false},
		{1, 3, 3, true},
		{3, 0xb, 0xb, true},
		{3, 7, 3, false}, // DRIVER_OK without FEATURES_OK
		{0xb, 0xf, 0xf, true},
		{0xf, 0xb, 0xf, false},
		{0xf, 0x8f, 0x8f, true},
		{0x4f, 0x4f, 0x4f, true}, // the driver writes back what it read
		{0x4f, 0xf, 0x4f, true},
		{0x43, 0xb, 0x43, false},
		{0x8f, 0xf, 0x8f, false},
	} {
		if got, err := c.from.To(c.write); got != c.to || (err == nil) != c.ok || err != nil && !errors.Is(err, virtio.ErrGuest) {
			t.Errorf("%#02x.To(%#02x) = %#02x, %v; want %#02x, ok %v", uint8(c.from), uint8(c.write), uint8(got), err, uint8(c.to), c.ok)
		}
	}
}
