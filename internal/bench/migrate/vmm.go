package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/transport"
	"github.com/hvctl/hvctl/virtio"
)

// Setup is what a process that holds one of hvctl's machines is told first.
type Setup struct {
	Dir       string // for records, its own
	Identity  string // folder of a key that both sides have; empty is plain TCP
	Listen    string // of a destination; empty for a source
	Kernel    string
	Initrd    string
	Cmdline   string
	CPUs      int
	MemoryMiB int
}

// Order has a source send its machine away.
type Order struct {
	To       string
	Downtime time.Duration
	Timeout  time.Duration
	Streams  int
}

// Word is what such a process says, one JSON value for each thing that happens:
// that it is up (a source boots, a destination listens), and what became of an
// order.
type Word struct {
	Up     bool            `json:"up,omitempty"`
	Report *migrate.Report `json:"report,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// VMM is the body of such a process. It reads a Setup from in, then Orders; it
// ends with in.
func VMM(ctx context.Context, in io.Reader, out io.Writer) error {
	d, e := json.NewDecoder(in), json.NewEncoder(out)
	var s Setup
	if err := d.Decode(&s); err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	var o transport.Options
	if s.Identity != "" {
		id, err := transport.LoadIdentity(s.Identity)
		if err != nil {
			return err
		}
		o = transport.Options{Identity: id, Allow: []string{id.Fingerprint()}}
	}
	if s.Listen != "" {
		return s.receive(ctx, d, e, o)
	}
	return s.send(ctx, d, e, o)
}

func (s Setup) config() machine.Config {
	return machine.Config{
		CPUs: s.CPUs, MemoryBytes: uint64(s.MemoryMiB) << 20,
		SerialOut: os.Stderr,
		Devices:   []machine.Device{{Kind: "rng", Args: virtio.Args{ID: "rng0"}}},
	}
}

// run lets a machine run until it is stopped.
func run(m *machine.Machine) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	return func() { cancel(); <-done }
}

func (s Setup) send(ctx context.Context, in *json.Decoder, out *json.Encoder, o transport.Options) (err error) {
	c := s.config()
	c.Kernel, c.Initrds, c.Cmdline = s.Kernel, []string{s.Initrd}, s.Cmdline
	m, err := machine.New(c)
	if err != nil {
		return err
	}
	stop := run(m)
	defer func() { stop(); err = errors.Join(err, m.Close()) }()
	if err := out.Encode(Word{Up: true}); err != nil {
		return err
	}
	for {
		var order Order
		if err := in.Decode(&order); err != nil {
			return ended(err)
		}
		dial, err := dialer(order.To, o)
		if err != nil {
			return err
		}
		report, err := migrate.Send(ctx, m, dial, commit.File(filepath.Join(s.Dir, "sent.json")), migrate.SendOptions{
			VM: "bench", Downtime: order.Downtime, Timeout: order.Timeout, Streams: order.Streams, MaxRounds: 1000, Throttle: true,
		})
		w := Word{Report: report}
		if err != nil {
			w.Error = err.Error()
		}
		if err := out.Encode(w); err != nil {
			return err
		}
	}
}

// ended is the error of a stream of orders that is over.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// arrival is a machine that runs when it is resumed first.
type arrival struct {
	*machine.Machine
	stop func()
}

// Resume implements migrate.Destination.
func (a *arrival) Resume(ctx context.Context) error {
	a.stop = run(a.Machine)
	return a.Machine.Resume(ctx)
}

func (a *arrival) drop() error {
	if a.stop != nil {
		a.stop()
	}
	return a.Close()
}

func (s Setup) receive(ctx context.Context, in *json.Decoder, out *json.Encoder, o transport.Options) (err error) {
	records, err := commit.OpenDir(filepath.Join(s.Dir, "received"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	var l net.Listener
	if o.Identity == nil {
		l, err = net.Listen("tcp", s.Listen)
	} else {
		l, err = transport.Listen(s.Listen, o)
	}
	if err != nil {
		return err
	}
	var here *arrival
	r := migrate.NewReceiver(records, migrate.ReceiveOptions{
		Prepare: func(context.Context, migrate.Offer) (migrate.Destination, error) {
			c := s.config()
			c.Restore = &machine.Restore{FollowTime: true}
			m, err := machine.New(c)
			if err != nil {
				return nil, err
			}
			here = &arrival{Machine: m}
			return here, nil
		},
		Drop: func(d migrate.Destination) { _ = d.(*arrival).drop(); here = nil },
		Once: true,
	})
	serving, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- r.Serve(serving, l) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-served)
		if here != nil {
			err = errors.Join(err, here.drop())
		}
	}()
	if err := out.Encode(Word{Up: true}); err != nil {
		return err
	}
	var none Order
	return ended(in.Decode(&none))
}

func dialer(to string, o transport.Options) (migrate.Dial, error) {
	if o.Identity != nil {
		return transport.Dial(to, o)
	}
	var d net.Dialer
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", to) }, nil
}
