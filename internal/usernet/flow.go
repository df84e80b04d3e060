package usernet

import (
	"bytes"
	"net"
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/hvctl/hvctl/internal/hostnet"
)

// flow is a hostnet.Flow with the instance.
type flow struct {
	ep       tcpip.Endpoint
	wq       *waiter.Queue
	entry    waiter.Entry
	readable chan struct{}
	deadline *time.Timer
	closing  sync.Once
	closed   chan struct{}
}

// never is a deadline that nobody waits for.
const never = 1 << 62

func newFlow(ep tcpip.Endpoint, wq *waiter.Queue) *flow {
	f := &flow{ep: ep, wq: wq, closed: make(chan struct{}), deadline: time.NewTimer(never)}
	f.entry, f.readable = waiter.NewChannelEntry(waiter.ReadableEvents)
	wq.EventRegister(&f.entry)
	return f
}

// Write implements hostnet.Flow. What the instance has no room for is lost.
func (f *flow) Write(p []byte) (int, error) {
	n, err := f.ep.Write(bytes.NewReader(p), tcpip.WriteOptions{})
	if err != nil {
		return int(n), failure("send", err)
	}
	return int(n), nil
}

// Receive implements hostnet.Flow.
func (f *flow) Receive(use func([]byte)) error {
	for {
		var err tcpip.Error
		hostnet.WithBuffer(func(buf []byte) {
			w := tcpip.SliceWriter(buf)
			var r tcpip.ReadResult
			if r, err = f.ep.Read(&w, tcpip.ReadOptions{}); err == nil {
				use(buf[:r.Count])
			}
		})
		switch err.(type) {
		case nil:
			return nil
		case *tcpip.ErrConnectionRefused: // of an earlier datagram; it is consumed now
			continue
		case *tcpip.ErrClosedForReceive: // by Close, just now
			return net.ErrClosed
		case *tcpip.ErrWouldBlock:
		default:
			return failure("receive", err)
		}
		select {
		case <-f.readable:
		case <-f.deadline.C:
			return os.ErrDeadlineExceeded
		case <-f.closed:
			return net.ErrClosed
		}
	}
}

// SetReadDeadline implements hostnet.Flow.
func (f *flow) SetReadDeadline(t time.Time) error {
	f.deadline.Reset(time.Until(t))
	return nil
}

// Close implements hostnet.Flow.
func (f *flow) Close() error {
	f.closing.Do(func() {
		close(f.closed)
		f.deadline.Stop()
		f.wq.EventUnregister(&f.entry)
		f.ep.Close()
	})
	return nil
}
