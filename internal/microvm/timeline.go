package microvm

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
)

// timeline records when each stage of the start was reached.
type timeline struct {
	mu     sync.Mutex
	stages []workload.Stage
}

func (t *timeline) mark(name string) { t.add(workload.Stage{Name: name, AtNs: workload.Monotonic()}) }

func (t *timeline) guest(name string, uptime time.Duration) {
	t.add(workload.Stage{Name: name, AtNs: int64(uptime), Guest: true})
}

func (t *timeline) add(s workload.Stage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stages = append(t.stages, s)
}

func (t *timeline) list() []workload.Stage {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]workload.Stage(nil), t.stages...)
}

// save writes the stages into dir.
func (t *timeline) save(dir string) error {
	b, err := json.Marshal(t.list())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, workload.TimelineFile), b, 0o600)
}

// first returns w, which marks name when the first byte is written.
func (t *timeline) first(name string, w io.Writer) io.Writer {
	if w == nil {
		return nil
	}
	return &firstWrite{w: w, mark: func() { t.mark(name) }}
}

type firstWrite struct {
	w    io.Writer
	once sync.Once
	mark func()
}

func (f *firstWrite) Write(p []byte) (int, error) {
	f.once.Do(f.mark)
	return f.w.Write(p)
}
