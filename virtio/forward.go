package virtio

import (
	"context"
	"errors"
	"fmt"

	"github.com/hvctl/hvctl/internal/eventfd"
)

// KernelInterrupt is implemented by an Interrupt whose transport can have the
// kernel raise the interrupt of a queue (KVM_IRQFD).
type KernelInterrupt interface {
	Interrupt
	// BindQueue makes signals of call raise the interrupt of queue index
	// whenever the kernel can do it by itself; at any other time, as while the
	// driver masks it, they stay in call for whoever waits on it. That one may
	// see a signal that the kernel has acted on, too. It takes the place of
	// what was bound before; nil binds nothing. It may be called from any
	// goroutine and does not block.
	BindQueue(index int, call *eventfd.EventFD)
}

// taken reports whether the device has q served elsewhere.
func (c *Core) taken(q *Queue) bool {
	t, ok := c.dev.(RingTaker)
	return ok && t.TakesQueue(q.index)
}

// Forward makes every signal of call, the eventfd of whoever serves queue
// elsewhere (RingTaker), an interrupt of the queue until ctx ends: in the kernel
// where the transport can, else from a goroutine. What is signalled after that
// is kept in call and forwarded when the device is activated again. The device
// closes call only in Reset and Close.
func (e *Env) Forward(queue int, call *eventfd.EventFD) {
	e.run.launch(fmt.Sprintf("calls of queue %d", queue), func(ctx context.Context) error {
		defer call.Until(ctx)()
		irq := e.run.core.irq
		if k, ok := irq.(KernelInterrupt); ok {
			k.BindQueue(queue, call)
			defer k.BindQueue(queue, nil)
		}
		for {
			if err := call.Wait(); errors.Is(err, eventfd.ErrInterrupted) {
				return nil
			} else if err != nil {
				return err
			}
			e.run.core.metrics.Interrupts.Add(1)
			if err := irq.Queue(queue); err != nil {
				return err
			}
		}
	})
}
