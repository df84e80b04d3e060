package eventfd_test

import (
	"context"
	"errors"
	"testing"

	"github.com/hvctl/hvctl/internal/eventfd"
	"github.com/hvctl/hvctl/internal/testenv"
)

func newFD(t *testing.T) *eventfd.EventFD {
	t.Helper()
	e, err := eventfd.New(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func TestSignalsCoalesceAndWakeOnce(t *testing.T) {
	e := newFD(t)
	for range 3 {
		if err := e.Signal(); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Wait(); err != nil {
		t.Fatal(err)
	}
	e.Interrupt() // nothing is left, so a second Wait can only end by this
	if err := e.Wait(); !errors.Is(err, eventfd.ErrInterrupted) {
		t.Errorf("second Wait = %v, want ErrInterrupted: signals did not coalesce", err)
	}
}

func TestInterruptWakesABlockedWaiterAndKeepsSignals(t *testing.T) {
	e := newFD(t)
	got := make(chan error)
	go func() { got <- e.Wait() }()
	e.Interrupt()
	if err := <-got; !errors.Is(err, eventfd.ErrInterrupted) {
		t.Fatalf("Wait = %v, want ErrInterrupted", err)
	}
	if err := e.Signal(); err != nil {
		t.Fatal(err)
	}
	e.Rearm()
	if err := e.Wait(); err != nil {
		t.Errorf("Wait after Rearm = %v: the signal sent meanwhile was lost", err)
	}
}

func TestCloseWakesWaiterAndSignalIsHarmless(t *testing.T) {
	e := newFD(t)
	got := make(chan error)
	go func() { got <- e.Wait() }()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, eventfd.ErrInterrupted) {
		t.Errorf("Wait = %v, want ErrInterrupted", err)
	}
	if err := e.Signal(); err != nil {
		t.Errorf("Signal after Close = %v", err)
	}
}

func TestUntilEndsWithItsContextAlone(t *testing.T) {
	e := newFD(t)
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		stop := e.Until(ctx)
		go cancel()
		if err := e.Wait(); !errors.Is(err, eventfd.ErrInterrupted) {
			t.Fatalf("Wait = %v, want ErrInterrupted", err)
		}
		stop()
		stop = e.Until(t.Context()) // the context before has no say any more
		if err := e.Signal(); err != nil {
			t.Fatal(err)
		}
		if err := e.Wait(); err != nil {
			t.Fatalf("Wait = %v", err)
		}
		stop()
	}
}

// What only the kernel waits for is in no epoll of this process; what is signalled
// meanwhile is there when it is watched again.
func TestUnwatchedEventFDsWakeNobodyAndLoseNothing(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	polled := func(fd int) bool {
		_, ok := testenv.Polled(t)[fd]
		return ok
	}
	if !polled(newFD(t).FD()) {
		t.Fatal("one of New is not watched; this test sees nothing")
	}
	e, err := eventfd.NewUnwatched(t.Name())
	must(err)
	fd := e.FD()
	for range 3 {
		if polled(fd) {
			t.Fatal("watched")
		}
		must(e.Signal())
		e.Interrupt() // of a wait that there is not
		if err := e.Wait(); !errors.Is(err, eventfd.ErrInterrupted) {
			t.Fatalf("Wait while not watched = %v", err)
		}
		must(e.Watch(true))
		must(e.Watch(true))
		if err := e.Wait(); err != nil {
			t.Fatalf("Wait = %v: the signal was lost", err)
		}
		must(e.Watch(false))
		must(e.Watch(false))
	}
	if e.FD() != fd {
		t.Error("another descriptor")
	}
	must(e.Watch(true))
	got := make(chan error)
	go func() { got <- e.Wait() }()
	must(e.Close())
	if err := <-got; !errors.Is(err, eventfd.ErrInterrupted) {
		t.Errorf("Wait = %v after Close", err)
	}
}
