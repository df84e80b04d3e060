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
