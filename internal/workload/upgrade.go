package workload

import (
	"context"
	"encoding/json"
	"os"
)

// Upgrader is a Runtime whose instance can go on in another process on the same
// host, while it runs.
type Upgrader interface {
	// HandOver gives the instance to s and returns a report (handoff.Report as
	// JSON). After nil it runs there, and Leave and Close are what may be called
	// here; after an error it runs here as before, or has ended.
	HandOver(ctx context.Context, s Successor) (json.RawMessage, error)
	// Leave ends what is here of an instance that was handed over, and nothing of
	// what the successor uses: the first process's Wait returns.
	Leave()
}

// Successor is the process to hand an instance over to.
type Successor struct {
	Link *os.File     // to it, of package handoff
	Kill func() error // ends it, and returns when it is gone
}

// Inheritor is a Runtime that goes on with what another process hands over, in
// place of Start.
type Inheritor interface {
	// TakeOver returns the instance's first process. quiet is called once the
	// instance runs here, and returns when the other process writes no more
	// output. committed tells, beside an error, that the instance was ours and
	// has ended with that; else it goes on in the other process.
	TakeOver(ctx context.Context, link *os.File, quiet func() error, io Stdio) (p Process, committed bool, err error)
}
