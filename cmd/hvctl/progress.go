package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hvctl/hvctl/images"
)

// progress shows long work on a terminal: one line, rewritten. Elsewhere it
// shows nothing.
type progress struct {
	w io.Writer // nil: no terminal

	mu    sync.Mutex
	items map[string]images.Event
	drawn time.Time
	width int // of what is on the line now
}

// redrawEvery bounds how often the line is written.
const redrawEvery = 100 * time.Millisecond

func (p *program) newProgress() *progress {
	b := &progress{items: map[string]images.Event{}}
	if p.terminal() {
		b.w = p.stderr
	}
	return b
}

// images is what the image store calls; nil without a terminal.
func (b *progress) images() images.Progress {
	if b.w == nil {
		return nil
	}
	return func(e images.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.items[string(e.Phase)+e.Name] = e
		if now := time.Now(); now.Sub(b.drawn) >= redrawEvery {
			b.drawn = now
			b.draw(e.Phase)
		}
	}
}

func (b *progress) draw(phase images.Phase) {
	var done, total int64
	var n, ended int
	for _, e := range b.items {
		if e.Phase != phase {
			continue
		}
		n++
		done += e.Done
		if e.End {
			ended++
			total += e.Done
		} else {
			total += max(e.Total, e.Done)
		}
	}
	what := map[images.Phase]string{images.PhaseDownload: "downloading", images.PhaseImport: "reading", images.PhaseBuild: "building the root file system"}[phase]
	b.print(fmt.Sprintf("%s: %s %s of %s, %d of %d done", what, barText(done, total), bytesText(uint64(done)), bytesText(uint64(total)), ended, n))
}

// barText is a bar of 20 characters.
func barText(done, total int64) string {
	n := 0
	if total > 0 {
		n = int(min(20*done/total, 20))
	}
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", 20-n) + "]"
}

func (b *progress) print(s string) {
	fmt.Fprintf(b.w, "\r%s%s", s, strings.Repeat(" ", max(0, b.width-len(s))))
	b.width = len(s)
}

// close clears the line. It may be called twice.
func (b *progress) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.w != nil && b.width > 0 {
		b.print("")
		fmt.Fprint(b.w, "\r")
		b.width = 0
	}
}
