package main

import (
	"testing"
	"time"
)

func TestBeatSeesWhatTheClockMisses(t *testing.T) {
	var b beat
	if got := b.watch(true); got != 0 {
		t.Errorf("a gap of %v before it began", got)
	}
	for end := time.Now().Add(time.Minute); ; { // until it has looked twice
		b.mu.Lock()
		seen := b.longest
		b.mu.Unlock()
		if seen > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not beat")
		}
		time.Sleep(beatEvery)
	}
	b.mu.Lock()
	stop := b.stop
	b.mu.Unlock()
	b.note(stop, 3*time.Hour)
	if got := b.watch(true); got != 3*time.Hour {
		t.Errorf("the longest gap is %v", got)
	}
	b.note(stop, 5*time.Hour) // of the beat before
	if got := b.watch(false); got >= 3*time.Hour {
		t.Errorf("a gap of %v of an earlier beat", got)
	}
	if got := b.watch(false); got != 0 {
		t.Errorf("a gap of %v while it does not beat", got)
	}
}
