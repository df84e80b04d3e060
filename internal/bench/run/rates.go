package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/hvctl/hvctl/internal/bench/probe"
	"github.com/hvctl/hvctl/internal/bench/result"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// What is asked for of disk and network.
const (
	diskRate    = 4 << 20 // bytes a second
	diskPiece   = 64 << 10
	diskOps     = 100 // a second
	diskOpBytes = 4 << 10
	netRate     = 1 << 20 // bytes a second
)

// rates are the promises about disk and network, those that the run can try.
func rates(o Options) (all []promise) {
	if o.Disk != nil {
		all = append(all,
			promise{name: "disk writes 4 MiB a second", run: diskLimit(true, false)}, promise{name: "disk reads 4 MiB a second", run: diskLimit(false, false)},
			promise{name: "disk writes 100 a second", run: diskLimit(true, true)}, promise{name: "disk reads 100 a second", run: diskLimit(false, true)})
	}
	if o.Network {
		all = append(all, promise{name: "network receives 1 MiB a second", run: received, owns: true}, promise{name: "network sends 1 MiB a second", run: sent, owns: true})
	}
	return all
}

// throttle is a bound of one kind on one device, as the flags --device-read-bps and
// so on make it.
func throttle(write, ops bool, major, minor int64) *specs.LinuxBlockIO {
	d := specs.LinuxThrottleDevice{Rate: diskRate}
	if ops {
		d.Rate = diskOps
	}
	d.Major, d.Minor = major, minor
	list := []specs.LinuxThrottleDevice{d}
	switch {
	case write && ops:
		return &specs.LinuxBlockIO{ThrottleWriteIOPSDevice: list}
	case write:
		return &specs.LinuxBlockIO{ThrottleWriteBpsDevice: list}
	case ops:
		return &specs.LinuxBlockIO{ThrottleReadIOPSDevice: list}
	}
	return &specs.LinuxBlockIO{ThrottleReadBpsDevice: list}
}

// diskLimit bounds what an instance's group may do with a block device of the
// host, the same on all targets: a VM has it as a disk that its VMM uses past the
// host's page cache.
func diskLimit(write, ops bool) func(context.Context, World, Options, *result.Control) error {
	return func(ctx context.Context, w World, o Options, c *result.Control) (err error) {
		unit, size, asked := "B/s", diskPiece, float64(diskRate)
		if ops {
			unit, size, asked = "operations/s", diskOpBytes, diskOps
		}
		near(c, unit, asked)
		disk, err := o.Disk()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, disk.Close()) }()
		verb := "read"
		if write {
			verb = "write"
		}
		s, err := open(ctx, w, Job{
			Argv: []string{Program, "disk", verb, fmt.Sprint(size), o.ControlTime.String(), DiskArg},
			Res:  workload.Resources{BlockIO: throttle(write, ops, disk.Major, disk.Minor)}, Disk: &disk.Device,
		})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.close()) }()
		n, took, err := s.counted()
		c.Measured = float64(n) / took.Seconds()
		if !ops {
			c.Measured *= float64(size)
		}
		return err
	}
}

// counted lets a program begin that says when it counts, and how much that was;
// the time is the host's.
func (s *session) counted() (ops int, took time.Duration, err error) {
	if err := s.ready(); err != nil {
		return 0, 1, err
	}
	if err := s.goOn(); err != nil {
		return 0, 1, err
	}
	if err := s.ready(); err != nil {
		return 0, 1, err
	}
	begin := time.Now()
	var w probe.Work
	err = s.read(&w)
	return w.Ops, time.Since(begin), err
}

// capped says that a limit may not be passed, and that half of it has to be
// there: what comes too fast is dropped, and TCP slows down by more than it must.
func capped(c *result.Control) {
	c.Unit, c.Asked, c.Least, c.Most = "B/s", netRate, 0.5*netRate, 1.1*netRate
}

// received bounds what comes from the host over the bridge.
func received(ctx context.Context, w World, o Options, c *result.Control) (err error) {
	capped(c)
	l, err := listen()
	if err != nil {
		return err
	}
	defer l.Close()
	go l.serve(func(conn net.Conn) {
		buf := make([]byte, 16<<10)
		for {
			if _, err := conn.Write(buf); err != nil {
				return
			}
		}
	})
	s, err := open(ctx, w, Job{Argv: []string{Program, "drain", o.ControlTime.String(), l.port()}, Net: &workload.NetLimit{Rx: netRate}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	n, took, err := s.counted()
	c.Measured = float64(n) / took.Seconds()
	return err
}

// sent bounds what goes to the host over the bridge, and counts it there.
func sent(ctx context.Context, w World, o Options, c *result.Control) (err error) {
	capped(c)
	l, err := listen()
	if err != nil {
		return err
	}
	defer l.Close()
	var got atomic.Int64
	come := make(chan struct{}, 1)
	go l.serve(func(conn net.Conn) {
		come <- struct{}{}
		buf := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buf)
			if got.Add(int64(n)); err != nil {
				return
			}
		}
	})
	s, err := worker(ctx, w, Job{Argv: []string{Program, "pour", l.port()}, Net: &workload.NetLimit{Tx: netRate}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.goOn(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { // it says nothing unless it fails, and then ends
		said, err := s.rest()
		ended <- errors.Join(fmt.Errorf("%s: it stopped sending: %s", w.Name(), said), err)
	}()
	wait := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case err := <-ended:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case <-come:
	case err := <-ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := wait(o.ControlTime / 4); err != nil {
		return err
	}
	before, begin := got.Load(), time.Now()
	if err := wait(o.ControlTime); err != nil {
		return err
	}
	c.Measured = float64(got.Load()-before) / time.Since(begin).Seconds()
	return nil
}

// server is the host's end of a connection, at any of its addresses: that of the
// bridge is there when the instance is.
type server struct {
	net.Listener
	done chan struct{}
}

func listen() (*server, error) {
	l, err := net.Listen("tcp4", ":0")
	return &server{l, make(chan struct{})}, err
}

// Close ends the connection, too.
func (l *server) Close() error {
	close(l.done)
	return l.Listener.Close()
}

func (l *server) port() string { return fmt.Sprint(l.Addr().(*net.TCPAddr).Port) } //nolint:forcetypeassert // it is one

// serve serves one connection, which ends with it.
func (l *server) serve(f func(net.Conn)) {
	c, err := l.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	go func() { <-l.done; _ = c.Close() }()
	f(c)
}

// Disk is a block device of the host that an instance may overwrite.
type Disk struct {
	Device
	io.Closer
}

// Device names it.
type Device struct {
	Path         string
	Major, Minor int64
}
