package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hvctl/hvctl/internal/moves"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/rendezvous"
	"github.com/hvctl/hvctl/migrate/transport"
)

func (p *program) cmdMigrateOffer() *cli.Command {
	return &cli.Command{
		Name:      "offer",
		Usage:     "let another host fetch a running VM by `hvctl migrate pull`",
		ArgsUsage: "INSTANCE",
		Description: "Waits for one host, of those that are allowed, which has to know a token besides: it is\n" +
			"printed as part of the command to be run there, is good once, and for --for. Up to\n" +
			"then nothing happens to the VM. Then it is sent as by `hvctl migrate send`, over\n" +
			"connections that the other host makes: this one needs not be able to reach it.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "listen", Required: true, Usage: "wait at `ADDRESS:PORT`"},
			allowFlag(),
			&cli.DurationFlag{Name: "for", Value: 10 * time.Minute, Usage: "wait for `TIME` at most"},
		}, howFlags()...),
		BashComplete: p.completeInstances(workload.Running),
		Action:       p.one(p.migrateOffer),
	}
}

func (p *program) migrateOffer(c *cli.Context, h *launch.Handle) error {
	at, err := p.remote(c, c.String("listen"))
	if err != nil {
		return err
	}
	r, err := howRequest(c)
	if err != nil {
		return err
	}
	if _, err := h.Client.Migration(c.Context); err != nil { // else somebody would come for nothing
		return named(h, err)
	}
	id, err := transport.LoadIdentity(at.Identity)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", at.Address)
	if err != nil {
		return err
	}
	defer l.Close()
	ctx, stop := interruptible(c)
	defer stop()
	grant, err := p.waitForPull(ctx, c, h, l.(*net.TCPListener), transport.Options{Identity: id, Allow: at.Allow})
	if err != nil {
		return fmt.Errorf("%s stays here: %w", h.Name(), err)
	}
	fmt.Fprintf(p.stderr, "%s (%v) fetches %s\n", grant.Peer, grant.Remote, h.Name())
	// Whoever was let in is the only one that may be at the other end.
	r.To = workload.Endpoint{Address: grant.Remote.String(), Identity: at.Identity, Allow: []string{grant.Peer}}
	if r.Dialer, err = lendDesk(l.(*net.TCPListener), grant.Key); err != nil {
		return err
	}
	defer r.Dialer.Close()
	return p.sendAway(c, h, r)
}

// waitForPull says how the VM can be fetched, and waits for who does.
func (p *program) waitForPull(ctx context.Context, c *cli.Context, h *launch.Handle, l *net.TCPListener, o transport.Options) (rendezvous.Grant, error) {
	patience := c.Duration("for")
	token := transport.NewToken(patience)
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return rendezvous.Grant{}, err
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		name, err := os.Hostname()
		if err != nil {
			return rendezvous.Grant{}, err
		}
		host = name
	}
	fmt.Fprintf(p.stderr, "hvctl migrate pull %s --from %s --allow %s --token %s\n", h.Name(), net.JoinHostPort(host, port), o.Identity.Fingerprint(), token)
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("nobody has fetched it for %v", patience))
	defer cancel()
	g := rendezvous.Gate{Names: []string{h.Name(), h.ID()}, Options: o, Token: token.Check, Log: slog.New(slog.NewTextHandler(p.stderr, nil))}
	return g.Wait(ctx, l)
}

func (p *program) cmdMigratePull() *cli.Command {
	return &cli.Command{
		Name:      "pull",
		Usage:     "fetch a running VM from where `hvctl migrate offer` waits, and print its new ID",
		ArgsUsage: "NAME",
		Description: "All connections are made from here. The other host prints the command with the token\n" +
			"that it wants to see, and decides how the VM is copied and when it goes.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "from", Required: true, Usage: "`HOST:PORT` of the offer"},
			allowFlag(),
			&cli.StringFlag{Name: "token", Required: true, EnvVars: []string{"HVCTL_MIGRATE_TOKEN"}, Usage: "`TOKEN` that the offer has printed"},
		}, arrivalFlags()...),
		Action: p.migratePull,
	}
}

// remote is endpoint for commands that work between hosts only.
func (p *program) remote(c *cli.Context, address string) (workload.Endpoint, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return workload.Endpoint{}, usagef(c, "%q: want HOST:PORT: %w; on one host, `hvctl migrate send` goes to a unix socket", address, err)
	}
	return p.endpoint(c, address)
}

func (p *program) migratePull(c *cli.Context) error {
	if c.NArg() != 1 {
		return usagef(c, "%d arguments given, want the VM's name at the other host", c.NArg())
	}
	vm := c.Args().First()
	from, err := p.remote(c, c.String("from"))
	if err != nil {
		return err
	}
	id, err := transport.LoadIdentity(from.Identity)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	key := rendezvous.NewKey()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", from.Address)
	if err != nil {
		return fmt.Errorf("pull %s: %w", vm, err)
	}
	ask := rendezvous.Request{VM: vm, Token: c.String("token"), Key: key}
	if err := rendezvous.Ask(ctx, conn, ask, transport.Options{Identity: id, Allow: from.Allow}); err != nil {
		return fmt.Errorf("pull %s from %s: %w", vm, from.Address, err)
	}
	dir, err := os.MkdirTemp("", "hvctl-pull-") // for this user alone
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "socket")
	reach, err := startReach(from.Address, path, key)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	// The source tells the process that reaches it when it knows the outcome.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	name, source := cmp.Or(c.String("name"), vm), from.Address
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = reach.Wait()
		switch code := reach.ProcessState.ExitCode(); {
		case p.hasCome(c, name): // it is ours, and only being set up
		case code == 0 || code == 1:
			cancel(fmt.Errorf("%s did not come: the offer at %s came to nothing, and says why there", vm, source))
		default: // what was on its way may still have come
			fmt.Fprintf(p.stderr, "what connected to %s was killed; if %s does not come soon, look at `hvctl migrate inspect` on both sides before you interrupt this\n", source, vm)
		}
	}()
	from.Address = "unix+tls:" + path
	err = p.receiveAt(ctx, c, from, name)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		_ = reach.Process.Kill()
		<-ended
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// hasCome tells whether the right to run a VM was taken for the instance called name.
// Its record is there before the source can know.
func (p *program) hasCome(c *cli.Context, name string) bool {
	s, err := p.instances(c)
	if err != nil {
		return true // nobody knows: nothing is ended
	}
	i, err := s.Open(name)
	if errors.Is(err, workload.ErrNotFound) {
		return false
	}
	if err != nil {
		return true
	}
	h, err := moves.Read(i.Dir())
	return err != nil || h.Came()
}
