package hostnet

import (
	"errors"
	"os"

	"github.com/hvctl/hvctl/internal/polling"
)

// Unwatch takes the queues of the tap from Go's poller, for who has the kernel serve
// them (vhost): frames wake nobody in this process then. Nobody may use them yet. On
// error they are as they were, or unwatched, and Close still closes them.
func (a *Attachment) Unwatch() error {
	for i, q := range a.Queues {
		f, err := polling.Off(q)
		if err != nil {
			return err
		}
		a.Queues[i] = f
		if err := q.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			return err
		}
	}
	if len(a.Queues) > 0 {
		a.Tap = a.Queues[0]
	}
	return nil
}
