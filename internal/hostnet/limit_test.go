package hostnet

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/testenv"
)

// What passes in a time is what was asked for, either way. The bucket is full in
// the beginning, and more than half of what is sent is beyond it.
func TestLimitsHoldBothWays(t *testing.T) {
	if !inNetns(t, testenv.NFTables, testenv.NetModules) {
		return
	}
	const rx, tx, amount = 2 << 20, 1 << 20, 1 << 20
	inside := newHost(t)
	a, err := Attach(t.Context(), Options{Root: t.TempDir(), ID: "c", NetNS: inside.namespaceFile(t), Limit: Limit{Rx: rx, Tx: tx}})
	mustRun(t, "attach", err)
	defer a.Close()
	var srv net.Listener
	inside.run(func() {
		srv, err = net.Listen("tcp4", netip.AddrPortFrom(a.IP.Addr(), 7).String())
		mustRun(t, "listen", err)
	})
	defer srv.Close()
	pass := func(from, to net.Conn) time.Duration {
		start := time.Now()
		go func() {
			_, _ = from.Write(make([]byte, amount))
			_ = from.(*net.TCPConn).CloseWrite()
		}()
		n, err := io.Copy(io.Discard, to)
		if err != nil || n != amount {
			t.Errorf("%d of %d bytes: %v", n, amount, err)
		}
		return time.Since(start)
	}
	out, err := net.Dial("tcp4", srv.Addr().String())
	mustRun(t, "dial", err)
	defer out.Close()
	in, err := srv.Accept()
	mustRun(t, "accept", err)
	defer in.Close()
	// The least time that the kernel's promise leaves; more it may always take.
	least := func(rate, burst uint64) time.Duration {
		return time.Duration(float64(amount-min(amount, burst)) / float64(rate) * float64(time.Second))
	}
	if took, want := pass(out, in), least(rx, uint64(bucket(rx, 50))); took < want {
		t.Errorf("received %d bytes in %v, at least %v at %d a second", amount, took, want, rx)
	}
	if took, want := pass(in, out), least(tx, uint64(bucket(tx, 10))); took < want {
		t.Errorf("sent %d bytes in %v, at least %v at %d a second", amount, took, want, tx)
	}
}

func TestSenselessLimitsAreRefused(t *testing.T) {
	for _, l := range []Limit{{Rx: 1}, {Tx: 1023}, {Rx: 1 << 33}} {
		if err := l.check(); !errors.Is(err, ErrOptions) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	if err := (Limit{Rx: minRate, Tx: maxRate}).check(); err != nil {
		t.Error(err)
	}
}
