package migrate_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/migrate"
)

func TestADestinationIsAskedWithoutEffect(t *testing.T) {
	r := newRig(t, func(r *rig) {
		quick(r)
		r.receive.Token = func(string) error { return errors.New("no token is right") }
		r.receive.Facts = func(_ context.Context, q json.RawMessage) (json.RawMessage, error) {
			if string(q) != `"who"` {
				return nil, errors.New("ask me who")
			}
			return json.RawMessage(`{"it":"is me"}`), nil
		}
	})
	got, err := migrate.Inquire(t.Context(), r.dial, json.RawMessage(`"who"`), r.send)
	if err != nil || string(got) != `{"it":"is me"}` {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := migrate.Inquire(t.Context(), r.dial, json.RawMessage(`"what"`), r.send); !errors.Is(err, migrate.ErrRefused) || !strings.Contains(err.Error(), "ask me who") {
		t.Errorf("refused by the host: %v", err)
	}
	if _, err := migrate.Inquire(t.Context(), r.dial, make(json.RawMessage, 1<<20), r.send); err == nil {
		t.Error("a question without end is sent")
	}
	if got := r.world.runners(); len(got) != 1 || got[0] != "source" {
		t.Errorf("%v runs", got)
	}
}
