package work

import (
	"context"
	"io"
	"time"

	"github.com/hvctl/hvctl/internal/workload"
)

// Target is a place where the command runs.
type Target interface {
	Name() string
	// Run makes an instance, runs its program to the end, and removes it. An
	// error means that the instance could not be had, or was lost; that a program
	// failed is in Ended.
	Run(ctx context.Context, j Job) (Ended, error)
}

// Job is what an instance has to do.
type Job struct {
	// Config makes the configuration of a new instance.
	Config func() (*workload.Config, error)
	// Stdout and Stderr get its output, from one goroutine at a time each.
	Stdout, Stderr io.Writer
}

// Ended is an instance's life.
type Ended struct {
	ID    string
	Exit  workload.Exit
	Start time.Duration // from nothing to its first process
	Whole time.Duration // from nothing until its end was known
	CPU   time.Duration // of everything that the instance was made of
	Peak  uint64        // bytes of memory, with the file pages that it brought in; 0: not known
}

// clock takes an instance's times.
type clock struct{ begin, started time.Time }

func newClock() *clock { return &clock{begin: time.Now()} }

func (c *clock) fill(e *Ended) {
	e.Start, e.Whole = c.started.Sub(c.begin), time.Since(c.begin)
}
