package lazy

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/machine/microguest"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/commit"
)

// A guest that adds up its memory all the time gets the same sum wherever it runs,
// while its memory comes, its handler dies and its link is cut.
func TestAGuestRunsOnWhileItsMemoryFollows(t *testing.T) {
	src := sweeping(t)
	sum := word(src, microguest.CounterAt)
	dst, err := machine.New(machine.Config{MemoryBytes: size, Restore: &machine.Restore{}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, dst)
	m := newLater(t, func(m *later) {
		slowly(m)
		m.from, m.to = src, dst
	})
	m.send()
	// The words are read after a wait in a system call: see comer.page.
	counters := dst.Regions()[0].Bytes[microguest.CounterAt:][:memory.PageSize]
	swept := func() uint32 {
		if err := unix.Madvise(counters, unix.MADV_POPULATE_READ); err != nil {
			t.Fatal(err)
		}
		if got := word(dst, microguest.CounterAt); got != sum {
			t.Fatalf("the sum is %#x, it was %#x", got, sum)
		}
		return word(dst, microguest.CounterAt+4)
	}
	before := word(src, microguest.CounterAt+4)
	_ = unix.Kill(m.filler.Handler(), unix.SIGKILL)
	m.cable.cut(true)
	m.cable.cut(false)
	select {
	case m.word <- commit.Retry:
		err = <-m.sent
	case err = <-m.sent: // all was there before the link was cut
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := m.filler.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := swept()
	eventually(t, "it sweeps on", func() bool { return swept() > at+2 })
	if at < before || !src.Paused() {
		t.Errorf("it had swept %d times at the source, which is paused: %v, and %d times afterwards", before, src.Paused(), at)
	}
	p := m.report.PostCopy
	t.Logf("%+v", *p)
	if p.State != "drained" || p.Faulted == 0 {
		t.Errorf("%+v", *p)
	}
}
