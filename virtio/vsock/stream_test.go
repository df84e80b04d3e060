package vsock_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/nettest"

	"github.com/hvctl/hvctl/virtio/vsock"
)

// pipe returns both ends of one connection.
func (w wire) pipe(t testing.TB, l *vsock.Listener) (near, far *vsock.Conn) {
	t.Helper()
	near, err := w.a.Dial(t.Context(), l.Addr().(vsock.Addr).Port)
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near, c.(*vsock.Conn)
}

// The rules for every net.Conn.
func TestConnIsANetConn(t *testing.T) {
	w := newWire(t)
	l := listen(t, w.b, 99)
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		near, far := w.pipe(t, l)
		return near, far, func() {
			_ = near.Close()
			_ = far.Close()
		}, nil
	})
}

// 1000 connections at once, each with its own data both ways.
func TestThousandConnections(t *testing.T) {
	const conns, size = 1000, 3000
	w := newWire(t)
	l := listen(t, w.b, 99)
	var wg sync.WaitGroup
	errs := make(chan error, 2*conns)
	wg.Go(func() { // the echo
		for range conns {
			c, err := l.Accept()
			if err != nil {
				errs <- err
				return
			}
			wg.Go(func() {
				defer c.Close()
				if _, err := io.Copy(c, c); err != nil {
					errs <- err
				}
			})
		}
	})
	together := sync.WaitGroup{}
	together.Add(conns)
	dialing := make(chan struct{}, vsock.Backlog/2) // not more than the echo takes
	for i := range conns {
		wg.Go(func() {
			dialing <- struct{}{}
			c, err := w.a.Dial(t.Context(), 99)
			<-dialing
			together.Done()
			if err != nil {
				errs <- err
				return
			}
			defer c.Close()
			together.Wait()
			if err := echo(c, rand.New(rand.NewPCG(uint64(i), 1)), size); err != nil {
				errs <- fmt.Errorf("connection %d: %w", i, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

// echo sends size random bytes, half closes, and wants them back.
func echo(c *vsock.Conn, rnd *rand.Rand, size int) error {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		if err == nil {
			err = c.CloseWrite()
		}
		wrote <- err
	}()
	back, err := io.ReadAll(c)
	switch werr := <-wrote; {
	case werr != nil:
		return werr
	case err != nil:
		return err
	case !bytes.Equal(back, data):
		return fmt.Errorf("%d bytes came back, %d were sent, or they differ", len(back), size)
	}
	return nil
}

// A reader that stands still stops its own writer and nobody else.
func TestSlowReaderHoldsUpNobody(t *testing.T) {
	w := newWire(t)
	l := listen(t, w.b, 99)
	slow, slowFar := w.pipe(t, l)
	defer slowFar.Close()
	data := pattern(2 << 20)
	sum := sha256.Sum256(data)
	wrote := make(chan error)
	go func() {
		_, err := slow.Write(data)
		if err == nil {
			err = slow.CloseWrite()
		}
		wrote <- err
	}()
	for i := range 8 {
		c, far := w.pipe(t, l)
		go func() {
			_, _ = io.Copy(far, far)
			_ = far.Close()
		}()
		if err := echo(c, rand.New(rand.NewPCG(uint64(i), 2)), 100_000); err != nil {
			t.Error(err)
		}
		_ = c.Close()
	}
	select {
	case err := <-wrote:
		t.Fatalf("2 MiB went where nobody read: %v", err)
	default:
	}
	h := sha256.New()
	if n, err := io.Copy(h, slowFar); n != int64(len(data)) || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(h.Sum(nil), sum[:]) {
		t.Error("the data differ")
	}
}

// Reads, writes and closes of all kinds while the driver resets: nothing
// hangs, nothing is left.
func TestEverythingAtOnce(t *testing.T) {
	w := newWire(t)
	l := listen(t, w.b, 99)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.CopyN(c, c, 50_000)
			})
		}
	})
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 3))
			for range 30 {
				c, err := w.a.Dial(t.Context(), 99)
				if err != nil {
					continue // the backlog was full
				}
				go func() { _, _ = io.Copy(io.Discard, c) }()
				_, _ = c.Write(make([]byte, rnd.IntN(100_000)))
				if rnd.IntN(2) == 0 {
					_ = c.CloseWrite()
				}
				_ = c.Close()
			}
		})
	}
	clients.Wait()
	_ = l.Close()
	wg.Wait()
}

func BenchmarkThroughput(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("write=%dKiB", size>>10), func(b *testing.B) {
			w := newWire(b)
			near, far := w.pipe(b, listen(b, w.b, 99))
			b.SetBytes(int64(size))
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = io.Copy(io.Discard, far)
			}()
			p := pattern(size)
			for b.Loop() {
				if _, err := near.Write(p); err != nil {
					b.Fatal(err)
				}
			}
			_ = near.CloseWrite()
			<-done
		})
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	w := newWire(b)
	near, far := w.pipe(b, listen(b, w.b, 99))
	go func() { _, _ = io.Copy(far, far) }()
	p := make([]byte, 64)
	for b.Loop() {
		if _, err := near.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(near, p); err != nil {
			b.Fatal(err)
		}
	}
}
