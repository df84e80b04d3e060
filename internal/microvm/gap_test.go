package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
)

// After a post-copy the first answer may be a refusal by the process that had the
// connections meanwhile.
func TestAGapIsAskedForAgain(t *testing.T) {
	records, err := commit.OpenDir(filepath.Join(t.TempDir(), "records"))
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	r := migrate.NewReceiver(records, migrate.ReceiveOptions{Facts: func(_ context.Context, q json.RawMessage) (json.RawMessage, error) {
		asked++
		if !strings.Contains(string(q), "abc") {
			t.Errorf("asked %s", q)
		}
		if asked < 3 {
			return nil, errors.New("there is no such session here")
		}
		return json.RawMessage(`{"longestNs":7000}`), nil
	}})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- r.Serve(ctx, l) }()
	dial := func(context.Context) (net.Conn, error) { return net.Dial("unix", l.Addr().String()) }
	if d, err := askGap(t.Context(), dial, "abc", "web"); err != nil || d != 7000 {
		t.Errorf("%v, %v", d, err)
	}
	cancel()
	if err := errors.Join(<-served, records.Close()); err != nil {
		t.Error(err)
	}
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}
