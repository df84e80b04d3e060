package migrate

import (
	"errors"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/migrate/wire"
)

func FuzzHello(f *testing.F) {
	f.Add([]byte(`{"min":1,"max":1,"role":"control","session":"000102030405060708090a0b0c0d0e0f","token":"x","vm":"web"}`))
	f.Add([]byte(`{"min":0,"max":4294967295}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h hello
		if err := decodeJSON(wire.Hello, b, &h); err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("error without a kind: %v", err)
			}
			return
		}
		if h.check() == nil && (strings.ContainsAny(h.Session, "/.") || h.Stream >= maxStreams || h.Stream < 0) {
			t.Errorf("accepted %+v", h)
		}
	})
}

func TestPeersWordsAreMadePrintable(t *testing.T) {
	err := refusedBy([]byte(`{"code":"a\u001b[2J","message":"` + strings.Repeat("é", 1000) + `"}`))
	if !errors.Is(err, ErrRefused) || strings.ContainsRune(err.Error(), 0x1b) || len(err.Error()) > 1000 {
		t.Errorf("%q", err)
	}
}

// FuzzImageInfo: an offer of an image that is accepted has a size within bounds and a
// digest that is nothing but one, for it becomes a file's name.
func FuzzImageInfo(f *testing.F) {
	f.Add([]byte(`{"size":4096,"sha256":"` + strings.Repeat("0a", 32) + `"}`))
	f.Add([]byte(`{"size":18446744073709551615,"sha256":"../x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var i imageInfo
		if err := decodeJSON(wire.Image, b, &i); err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("error without a kind: %v", err)
			}
			return
		}
		if i.check() == nil && (i.Size == 0 || i.Size > MaxImage || len(i.SHA256) != 64 || strings.Trim(i.SHA256, "0123456789abcdef") != "") {
			t.Errorf("accepted %+v", i)
		}
	})
}
