package microvm

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// gate is a reader that takes nothing while it is shut.
type gate struct {
	mu   sync.Mutex
	got  bytes.Buffer
	open chan struct{}
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got.Write(p)
}

func (g *gate) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got.String()
}

func TestRelayDeliversEverythingInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		close(g.open)
		r := newRelay(g)
		var want bytes.Buffer
		for i := range 3 * relaySize {
			b := []byte{byte(i), byte(i >> 8)}
			want.Write(b)
			_, _ = r.Write(b)
		}
		r.finish()
		if g.text() != want.String() {
			t.Errorf("%d of %d bytes arrived", len(g.text()), want.Len())
		}
	})
}

func TestRelayWaitsForASlowReaderAndNotForADeadOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		r := newRelay(g)
		start := time.Now()
		chunk := bytes.Repeat([]byte("x"), relaySize/2)
		_, _ = r.Write(chunk) // the pump holds this one
		synctest.Wait()
		_, _ = r.Write(chunk)
		_, _ = r.Write(chunk) // full
		if d := time.Since(start); d != 0 {
			t.Errorf("waited %v with room", d)
		}
		_, _ = r.Write([]byte("lost"))
		if d := time.Since(start); d != relayPatience {
			t.Errorf("waited %v for a reader that takes nothing, want %v", d, relayPatience)
		}
		for range 1000 {
			_, _ = r.Write([]byte("lost"))
		}
		if d := time.Since(start); d != relayPatience {
			t.Errorf("waited again: %v", d)
		}
		close(g.open)
		synctest.Wait()
		_, _ = r.Write([]byte("back"))
		r.finish()
		got := g.text()
		if !strings.HasSuffix(got, "back") || !strings.Contains(got, "[4004 bytes lost") || strings.Count(got, "x") != 3*len(chunk) {
			t.Errorf("%d bytes, the end is %q", len(got), got[max(0, len(got)-80):])
		}
	})
}

func TestRelayLetsGoWhenTheVMIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		r := newRelay(g)
		chunk := make([]byte, relaySize)
		_, _ = r.Write(chunk)
		synctest.Wait()
		_, _ = r.Write(chunk)
		start := time.Now()
		done := make(chan struct{})
		go func() { _, _ = r.Write(chunk); close(done) }()
		synctest.Wait()
		r.abandon()
		<-done
		if d := time.Since(start); d != 0 {
			t.Errorf("a killed vCPU waited %v", d)
		}
		r.finish() // the reader is dead
		if d := time.Since(start); d != relayPatience {
			t.Errorf("finish took %v, want %v", d, relayPatience)
		}
		close(g.open)
		<-r.done
	})
}
