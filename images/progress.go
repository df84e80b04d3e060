package images

import "io"

// Phase says what a Progress event is about.
type Phase string

// The phases of Pull, Import and Rootfs.
const (
	PhaseDownload Phase = "download" // a blob from a registry
	PhaseImport   Phase = "import"   // a blob from a file or directory
	PhaseBuild    Phase = "build"    // reading layers into a root file system image
)

// Event is one step of a long operation. Name is stable for one item (a short
// digest or a file name); Total is -1 when unknown. The last event of an item
// has End set, also when it failed.
type Event struct {
	Phase Phase
	Name  string
	Done  int64 // bytes
	Total int64 // bytes
	End   bool
}

// Progress receives events. It may be called from several goroutines at once
// and must be quick; nil means no progress.
type Progress func(Event)

// start announces an item and returns a reader that counts into it and the
// function that ends it.
func (p Progress) start(ph Phase, name string, total int64, r io.Reader) (io.Reader, func()) {
	if p == nil {
		return r, func() {}
	}
	p(Event{Phase: ph, Name: name, Total: total})
	c := &counter{p: p, e: Event{Phase: ph, Name: name, Total: total}, r: r}
	return c, func() {
		c.e.End = true
		p(c.e)
	}
}

// progressStep is how many bytes pass between two events.
const progressStep = 256 << 10

type counter struct {
	p    Progress
	e    Event
	r    io.Reader
	told int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.e.Done += int64(n)
	if c.e.Done-c.told >= progressStep {
		c.told = c.e.Done
		c.p(c.e)
	}
	return n, err
}
