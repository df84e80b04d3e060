package main

import (
	"net"
	"testing"
	"time"
)

// Nobody answers for a while: the probe says for about how long, and not less.
func TestProbeSeesForHowLongNobodyAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	accepted := make(chan struct{}, 1)
	serve := func(l net.Listener) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
			select {
			case accepted <- struct{}{}:
			default:
			}
		}
	}
	go serve(l)
	p := startProbe(address)
	<-accepted
	_ = l.Close()
	began := time.Now()
	<-time.After(100 * time.Millisecond) // what is measured
	away := time.Since(began)
	if l, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go serve(l)
	got := p.last(time.Minute)
	total := time.Since(began)
	if got < away*9/10 || got > total+time.Second {
		t.Errorf("nobody answered for %v of %v, the probe says %v", away, total, got)
	}
}

func TestProbeOfNobodySaysNothing(t *testing.T) {
	p := startProbe("127.0.0.1:1")
	if got := p.last(0); got != 0 {
		t.Errorf("a gap of %v", got)
	}
}
