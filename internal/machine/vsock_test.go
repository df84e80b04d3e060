package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/virtio"
)

const (
	vsockGuestPort = 5555
	vsockBytes     = 1 << 20
)

// TestGuestMeetsTheHostByVhostVsock: a process in the guest and an AF_VSOCK
// socket of the host send each other a megabyte each way, opened by either
// side, over a pause and after the guest's driver was bound anew.
func TestGuestMeetsTheHostByVhostVsock(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.VhostVsock)
	for i, transport := range []Transport{MMIO, PCI} {
		t.Run(string(transport), func(t *testing.T) {
			cid := uint32(4100 + i)
			l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			must(t, l.SetDeadline(time.Now().Add(guestTimeout)))
			g := bootLinux(t, linux{
				mode: "vsock", cmdline: fmt.Sprintf("hv.port=%d", l.Addr().(*vsock.Addr).Port),
				Config: Config{Transport: transport, Devices: []Device{vhostVsock(cid)}},
			})
			accept := func() net.Conn {
				t.Helper()
				c, err := l.Accept()
				if err != nil {
					t.Fatalf("accept: %v; console:\n%s", err, g.console())
				}
				if from := c.RemoteAddr().(*vsock.Addr).ContextID; from != cid {
					t.Errorf("called by CID %d, want %d", from, cid)
				}
				return c
			}
			pause := func() {
				must(t, g.Pause(t.Context()))
				must(t, g.Resume(t.Context()))
			}
			exchange(t, accept(), pause)
			g.wait("echoed", "dialed")

			g.wait("ready", "listen")
			exchange(t, dialGuest(t, cid), pause)
			g.wait("echoed", "accepted")

			lost := accept()
			if n, err := lost.Read(make([]byte, 1)); err != nil || n != 1 {
				t.Fatalf("read %d bytes, %v", n, err)
			}
			if _, err := lost.Write([]byte{1}); err != nil { // the guest unbinds its driver
				t.Fatal(err)
			}
			must(t, lost.SetReadDeadline(time.Now().Add(guestTimeout)))
			if n, err := lost.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
				t.Errorf("connection over a reset: read %d bytes, %v", n, err)
			}
			must(t, lost.Close())
			exchange(t, accept(), pause)
			g.wait("echoed", "rebound")

			if end := g.end(); end.Reason != PowerOff {
				t.Errorf("Run: %v", end)
			}
			checkVhostInterrupts(t, transport, g.Counters())
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func vhostVsock(cid uint32) Device {
	return Device{Kind: "vsock", Args: virtio.Args{ID: "vsock", Values: map[string]string{
		"backend": "vhost", "cid": strconv.Itoa(int(cid)),
	}}}
}

// checkVhostInterrupts tells the kernel's way from ours.
func checkVhostInterrupts(t *testing.T, transport Transport, c map[string]uint64) {
	t.Helper()
	forwarded, irqfds := c["vsock.interrupts_total"], c["irq.irqfds_total"]
	t.Logf("%d interrupts passed through here, %d irqfds, %d tables", forwarded, irqfds, c["irq.routing_tables_total"])
	switch {
	case c["irq.irqfds_refused_total"] != 0 || c["vsock.guest_errors_total"] != 0:
		t.Errorf("counters %v", c)
	case transport == MMIO && (irqfds != 0 || forwarded == 0):
		t.Error("virtio-mmio's interrupts did not pass through here")
	case transport == PCI && (irqfds == 0 || forwarded > 4*irqfds):
		// A signal from before an irqfd was assigned is seen twice.
		t.Error("the kernel did not raise the vectors by itself")
	}
}

// dialGuest connects to the guest, which is listening. On a slow host the
// kernel's two seconds may be too short.
func dialGuest(t *testing.T, cid uint32) net.Conn {
	t.Helper()
	for end := time.Now().Add(guestTimeout); ; {
		c, err := vsock.Dial(cid, vsockGuestPort, nil)
		if err == nil {
			return c
		}
		if !errors.Is(err, unix.ETIMEDOUT) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// exchange sends bytes that the other side sends back, and calls middle when
// half of them have come. It closes c.
func exchange(t *testing.T, c net.Conn, middle func()) {
	t.Helper()
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(guestTimeout)))
	sent := make([]byte, vsockBytes)
	rand.NewChaCha8([32]byte{}).Read(sent)
	done := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		done <- errors.Join(err, c.(*vsock.Conn).CloseWrite())
	}()
	got := make([]byte, vsockBytes)
	_, err := io.ReadFull(c, got[:vsockBytes/2])
	if err == nil {
		middle()
		_, err = io.ReadFull(c, got[vsockBytes/2:])
	}
	if err != nil {
		t.Fatalf("echo: %v", err)
	}
	if err := <-done; err != nil {
		t.Fatalf("send: %v", err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("what came back is not what was sent")
	}
	if n, err := c.Read(got); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %d bytes, %v", n, err)
	}
}

// TestRebootedGuestGetsItsCIDBack: the CID goes with the machine.
func TestRebootedGuestGetsItsCIDBack(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.VhostVsock)
	for range 2 {
		t.Run("", func(t *testing.T) {
			g := bootLinux(t, linux{mode: "reboot", Config: Config{Devices: []Device{vhostVsock(4110)}}})
			_, err := New(Config{Kernel: kernelFile("minimal"), MemoryBytes: 128 << 20, Devices: []Device{vhostVsock(4110)}})
			if err == nil || !strings.Contains(err.Error(), "CID 4110 belongs to another VM") {
				t.Errorf("a second VM with the CID: %v", err)
			}
			if end := g.end(); end.Reason != Reboot {
				t.Errorf("Run: %v", end)
			}
		})
	}
}

// guestVsock is the guest's side of TestGuestMeetsTheHostByVhostVsock.
func guestVsock() error {
	port, err := strconv.ParseUint(word("hv.port"), 10, 32)
	if err != nil {
		return err
	}
	dial := func() (*vsock.Conn, error) { return vsock.Dial(vsock.Host, uint32(port), nil) }
	echoDialed := func(name string) error {
		c, err := dial()
		if err != nil {
			return err
		}
		return echoBack(c, name)
	}
	if err := echoDialed("dialed"); err != nil {
		return err
	}
	l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, vsockGuestPort, nil)
	if err != nil {
		return err
	}
	say("ready", "listen")
	c, err := l.Accept()
	if err != nil {
		return err
	}
	if err := echoBack(c, "accepted"); err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	c, err = dial()
	if err != nil {
		return err
	}
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return err
	}
	if err := rebindVsock(); err != nil {
		return err
	}
	if err := echoDialed("rebound"); err != nil {
		return err
	}
	sayTrouble()
	return nil
}

func echoBack(c net.Conn, name string) error {
	if _, err := io.Copy(c, c); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	say("echoed", name)
	return c.Close()
}

// rebindVsock takes the driver from its device and gives it back: the device is
// reset while a connection is open.
func rebindVsock() error {
	const driver = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport"
	devs, err := filepath.Glob(driver + "/virtio*")
	if err != nil || len(devs) != 1 {
		return fmt.Errorf("devices of the driver: %q, %w", devs, err)
	}
	for _, do := range []string{"unbind", "bind"} {
		if err := os.WriteFile(filepath.Join(driver, do), []byte(filepath.Base(devs[0])), 0); err != nil {
			return err
		}
	}
	return nil
}
