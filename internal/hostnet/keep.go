package hostnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Keeping says what a keeper needs from when it has begun: files that it reads, and
// the directory that it changes. Plugins of a CNI network need anything.
type Keeping struct {
	Dir   string
	Reads []string
	CNI   bool
}

// Keep is the life of a keeper, a process that Options.Keeper or
// CNIOptions.Keeper names: it serves the published ports and the name service of an
// instance on a bridge, and takes the instance off its network when the owner asks
// for it or has ended, however that came about. Its descriptors are those that the
// owner has passed. confine is called before it serves anything; nil does not
// confine. What the owner says is believed in one thing only: that it is time to go.
func Keep(confine func(Keeping) error, log *slog.Logger) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP) // it is the owner who stops
	unix.CloseOnExec(keeperLink)
	f := os.NewFile(keeperLink, "owner")
	owner, err := unixConn(f)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("owner (descriptor %d): %w", keeperLink, err)
	}
	defer owner.Close()
	said := &io.LimitedReader{R: owner, N: maxKeeper}
	d := json.NewDecoder(said)
	var k kept
	switch err := d.Decode(&k); {
	case errors.Is(err, io.EOF):
		return nil // it was not needed
	case err != nil:
		return fmt.Errorf("what to keep: %w", err)
	}
	begin := k.begin
	if k.CNI != nil {
		begin = k.beginCNI
	}
	n, err := begin(log)
	if err == nil && confine != nil {
		err = confine(k.needs())
	}
	if err != nil { // the owner goes on without, and at its end there is something to do
		log.Error("the keeper of the network cannot do its work", "err", err)
	}
	for {
		var verb string
		said.N = maxVerb // more is an end, too
		err := d.Decode(&verb)
		switch {
		case err == nil && verb == checkCNI:
			err = answer(owner, n.check())
		default: // whatever it is, this is the end
			finished := n.end()
			if finished != nil {
				log.Warn("taking the instance off the network", "err", finished)
			}
			_ = answer(owner, finished) // it may be gone
			return nil
		}
		if err != nil {
			log.Debug("answer of the keeper", "err", err)
		}
	}
}

func answer(owner net.Conn, err error) error {
	var a keeperAnswer
	if err != nil {
		a.Error = err.Error()
	}
	return json.NewEncoder(owner).Encode(a)
}

// needs is what remains to be done.
func (k *kept) needs() Keeping {
	n := Keeping{Dir: filepath.Join(k.Root, "net"), CNI: k.CNI != nil}
	if !k.DNS {
		return n
	}
	for _, p := range k.Paths { // and what takes their places
		n.Reads = append(n.Reads, filepath.Dir(p))
		if real, err := filepath.EvalSymlinks(p); err == nil {
			n.Reads = append(n.Reads, filepath.Dir(real))
		}
	}
	return n
}

// inheritedFiles are those after the link.
func inheritedFiles(names ...string) (files []*os.File) {
	for i, name := range names {
		fd := keeperLink + 1 + i
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	return files
}

// network is what a keeper keeps.
type network interface {
	check() error
	end() error
}

// onBridge is an instance's place on a bridge.
type onBridge struct {
	*Attachment
	index int // of its tap
}

// begin serves an attachment to a bridge.
func (k *kept) begin(log *slog.Logger) (network, error) {
	o := Options{Root: k.Root, ID: k.ID, Bridge: k.Bridge, NoNAT: k.NoNAT, Log: log}
	o.paths = paths{resolvConf: k.Paths[0], resolvedRun: k.Paths[1]}
	n := onBridge{Attachment: &Attachment{IP: k.IP, Ports: k.Ports, TapName: k.TapName}, index: k.Index}
	err := o.fill()
	n.o = o
	names := make([]string, len(k.Ports))
	if k.DNS {
		names = append(names, "udp", "tcp")
	}
	files := inheritedFiles(names...)
	defer closeAll(files) // what is served are copies
	if err != nil {
		return n, err
	}
	bound, err := inheritPorts(k.Ports, files)
	if err != nil {
		return n, err
	}
	var f *dnsForwarder
	if k.DNS {
		if f, err = inheritDNS(files[len(k.Ports):], k.IP.Masked(), o.paths, log); err != nil {
			closeBound(bound)
			return n, err
		}
	}
	n.serve(bound, f)
	return n, nil
}

func (onBridge) check() error { return errors.New("it is on no CNI network") }

// end is release for an owner that may have been taken over, or is gone: its
// tap goes before the guard that is in front of it.
func (n onBridge) end() error {
	for _, s := range n.serving {
		s.close()
	}
	unlock, err := lock(context.Background(), n.o.Root)
	if err != nil {
		return err
	}
	defer unlock()
	ls, err := loadLeases(n.o.Root, n.o.Bridge)
	if err != nil {
		return err
	}
	b, err := open(&n.o)
	if err != nil {
		return err
	}
	defer b.h.Close()
	link, err := b.h.LinkByName(n.TapName)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing):
	case err != nil:
		return wrap("look up interface "+n.TapName, err)
	case link.Attrs().Index != n.index:
		return nil // the instance has come back, by another owner
	default:
		if err := b.h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return wrap("remove interface "+n.TapName, err)
		}
	}
	return leave(ls, b, n.o.ID)
}

// onCNI is an instance's place on a CNI network, and its network namespace.
type onCNI struct {
	*cniLink
	ns *os.File
}

func (k *kept) beginCNI(*slog.Logger) (network, error) {
	n := onCNI{cniLink: &cniLink{program: k.Program, request: *k.CNI}, ns: inheritedFiles("namespace")[0]}
	var err error
	n.record, err = os.Open(recordPath(k.Root, k.CNI.ID)) // not the owner's, whose lock that has
	return n, err
}

func (n onCNI) end() error {
	if n.record == nil {
		return errors.New("there is no record of a CNI network")
	}
	return errors.Join(n.leave(context.Background()), n.ns.Close())
}
