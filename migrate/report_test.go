package migrate_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate"
)

func sampleReport() *migrate.Report {
	return &migrate.Report{
		Session: "0123456789abcdef", Outcome: "handed", Streams: 2, Total: 300 * time.Millisecond,
		Rounds: []migrate.RoundReport{
			{Pages: 1000, Bytes: 4 << 20, Duration: 200 * time.Millisecond, Bandwidth: 20 << 20, Dirty: 50},
			{Pages: 50, Duplicate: 40, Bytes: 200 << 10, Duration: 10 * time.Millisecond, Bandwidth: 20 << 20},
		},
		Final:    migrate.RoundReport{Pages: 3, Bytes: 12 << 10},
		Blackout: migrate.Blackout{Pause: 1e6, Pages: 2e6, State: 1e5, Load: 3e6, Commit: 4e6, Total: 10_100_000},
	}
}

func TestTimelineIsWellFormed(t *testing.T) {
	for name, r := range map[string]*migrate.Report{"whole": sampleReport(), "nothing happened": {Outcome: "kept"}} {
		var b bytes.Buffer
		if err := r.WriteSVG(&b); err != nil {
			t.Fatal(err)
		}
		rects := 0
		d := xml.NewDecoder(&b)
		for {
			tok, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "rect" {
				rects++
			}
		}
		// Two rounds, the blackout, its five parts and their legend.
		if want := map[string]int{"whole": 13, "nothing happened": 0}[name]; rects != want {
			t.Errorf("%s: %d bars, want %d", name, rects, want)
		}
	}
}

func TestTableTellsEveryRound(t *testing.T) {
	var b bytes.Buffer
	if err := sampleReport().WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1000", "last", "outcome handed", "blackout 10.1ms", "commit 4ms"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
}
