package probe

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func nobody() error { return nil }

// Only what is done after the word that it counts is counted.
func TestDiskCountsPiecesAfterItHasSettled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, write := range []bool{false, true} {
		told := 0
		w, err := Disk(write, 64<<10, path, 5*time.Millisecond, func() error { told++; return nil })
		if err != nil && !errors.Is(err, syscall.EINVAL) { // what tmpfs said to O_DIRECT before Linux 6.6
			t.Fatal(err)
		}
		if err != nil {
			t.Skipf("a file system without direct I/O: %v", err)
		}
		if w.Ops < 1 || w.Ns < int64(5*time.Millisecond) || told != 1 {
			t.Errorf("write %v: %+v, told %d times", write, w, told)
		}
	}
	if _, err := Disk(false, 2<<20, path, time.Millisecond, nobody); err == nil {
		t.Error("a disk smaller than a piece is read")
	}
}

func TestPourAndDrain(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, zeros{}) }() // until it hangs up
		}
	}()
	w, err := Drain(l.Addr().String(), 5*time.Millisecond, nobody)
	if err != nil || w.Ops == 0 {
		t.Errorf("%+v, %v", w, err)
	}
	sink, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	got := make(chan int64)
	go func() {
		c, err := sink.Accept()
		if err != nil {
			return
		}
		n, _ := io.CopyN(io.Discard, c, 1<<20)
		_ = c.Close()
		got <- n
	}()
	if err := Pour(sink.Addr().String()); err != nil {
		t.Error(err)
	}
	if n := <-got; n != 1<<20 {
		t.Errorf("%d bytes came", n)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestGatewayIsThatOfTheDefaultRoute(t *testing.T) {
	const head = "Iface\tDestination\tGateway \tFlags\n"
	ip, err := gateway(head + "eth0\t000011AC\t00000000\t0001\neth0\t00000000\t010011AC\t0003\n")
	if err != nil || ip.String() != "172.17.0.1" {
		t.Errorf("%v, %v", ip, err)
	}
	for _, bad := range []string{head, head + "eth0\t00000000\tXX\t1\n", "eth0 00000000 0102\n"} {
		if ip, err := gateway(bad); err == nil {
			t.Errorf("%q: %v", bad, ip)
		}
	}
}
