package lazy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/uffd"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/commit"
	"github.com/hvctl/hvctl/migrate/transport"
)

// Remote has a guest's pages come from the host that it came from (post-copy). It is
// a migrate.Pull. The handler is the one who speaks with that host: it accepts its
// connections in the owner's place, since an owner whose goroutine waits for a page
// may stand still as a whole.
type Remote struct {
	Options
	Listener func() (*os.File, error) // a duplicate of the owner's listening socket
	Address  string                   // that it listens at, as package transport knows it
	Identity string                   // the directory of this host's key; not for unix sockets
	Allow    []string
	Wait     time.Duration // for a source that is gone; the default of migrate.PullOptions
	// Filling is told of the Filler before Pull returns. Its Close is the caller's.
	Filling func(*Filler)
}

var _ migrate.Pull = (*Remote)(nil)

// remote is what the handler is told of a Remote.
type remote struct {
	Session  string        `json:"session"`
	Epoch    uint32        `json:"epoch"`
	Peer     string        `json:"peer"`
	Journal  string        `json:"journal"`
	Address  string        `json:"address"`
	Identity string        `json:"identity,omitempty"`
	Allow    []string      `json:"allow,omitempty"`
	Alive    time.Duration `json:"alive"`
	Stall    time.Duration `json:"stall"`
	Wait     time.Duration `json:"wait"`
}

// Probe implements migrate.Pull.
func (r *Remote) Probe(ram []memory.Region) error {
	u, err := uffd.Open()
	if err != nil {
		return err
	}
	defer func() { _ = u.Close() }()
	for _, g := range ram {
		if g.Pluggable() {
			return fmt.Errorf("the RAM at %v is mapped twice, and pages could not be brought to both", g.GPA)
		}
		addr, err := uffd.Register(u, g.Bytes)
		if err != nil {
			return err
		}
		if err := uffd.Unregister(u, addr, g.Size); err != nil {
			return err
		}
	}
	return nil
}

// Pull implements migrate.Pull.
func (r *Remote) Pull(o migrate.PullOptions, ram []memory.Region, over func(error)) error {
	journal, ok := o.Journal.(commit.File)
	if !ok {
		return errors.New("the records are not in files")
	}
	u, err := uffd.Open()
	if err != nil {
		return err
	}
	f := &Filler{o: r.Options, uffd: u, done: make(chan struct{})}
	f.layout = layout{Owner: os.Getpid(), LostFile: r.LostFile, Remote: &remote{
		Session: o.Session, Epoch: o.Epoch, Peer: o.Peer, Journal: string(journal),
		Address: r.Address, Identity: r.Identity, Allow: r.Allow, Alive: o.Keepalive, Stall: o.Stall, Wait: r.Wait,
	}}
	err = func() error {
		for _, g := range ram {
			addr, err := uffd.Register(u, g.Bytes)
			if err != nil {
				return err
			}
			f.layout.Regions = append(f.layout.Regions, place{addr, g.Size})
		}
		l, err := r.Listener()
		if err != nil {
			return err
		}
		f.from = append(f.from, l)
		m, err := writeMissing(o.Missing)
		if err != nil {
			return err
		}
		f.from = append(f.from, m)
		return f.start()
	}()
	if err != nil {
		f.free()
		return err
	}
	r.Filling(f)
	go func() {
		<-f.done
		f.mu.Lock()
		err := f.err
		f.mu.Unlock()
		over(err)
	}()
	return nil
}

// writeMissing puts bitmaps into a file of their own, one after the other.
func writeMissing(missing [][]uint64) (*os.File, error) {
	fd, err := unix.MemfdCreate("missing", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "missing")
	at := int64(0)
	for _, words := range missing {
		b := make([]byte, 0, 8*len(words))
		for _, w := range words {
			b = binary.LittleEndian.AppendUint64(b, w)
		}
		if _, err := f.WriteAt(b, at); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		at += int64(len(b))
	}
	return f, nil
}

func (l layout) readMissing(f *os.File) (missing [][]uint64, pages []uint64, err error) {
	at := int64(0)
	for _, r := range l.Regions {
		n := r.Size / uffd.PageSize
		b := make([]byte, (n+63)/64*8)
		if _, err := f.ReadAt(b, at); err != nil {
			return nil, nil, fmt.Errorf("bitmap of missing pages: %w", err)
		}
		words := make([]uint64, len(b)/8)
		for i := range words {
			words[i] = binary.LittleEndian.Uint64(b[8*i:])
		}
		at += int64(len(b))
		missing, pages = append(missing, words), append(pages, n)
	}
	return missing, pages, nil
}

// pull serves faults with pages that come from the other host. It returns nil when
// all memory is there.
func (s *server) pull() error {
	unix.CloseOnExec(missingFD)
	missing, pages, err := s.readMissing(fdFile(missingFD, "missing"))
	if err != nil {
		return err
	}
	o := transport.Options{Allow: s.Remote.Allow}
	if s.Remote.Identity != "" {
		if o.Identity, err = transport.LoadIdentity(s.Remote.Identity); err != nil {
			return err
		}
	}
	l, err := transport.Inherit(fdFile(snapshotFD, "listener"), s.Remote.Address, o)
	if err != nil {
		return err
	}
	s.buf = make([]byte, uffd.PageSize)
	p := migrate.NewPuller(migrate.PullOptions{
		Session: s.Remote.Session, Epoch: s.Remote.Epoch, Peer: s.Remote.Peer, Pages: pages, Missing: missing,
		Journal: commit.File(s.Remote.Journal), Keepalive: s.Remote.Alive, Stall: s.Remote.Stall, Wait: s.Remote.Wait, Log: s.log,
		Fill: func(region int, page, n uint64, data []byte) error {
			addr := s.Regions[region].Addr + page*uffd.PageSize
			if data != nil {
				return uffd.Copy(s.uffd, addr, data)
			}
			for i := range n {
				if err := uffd.Copy(s.uffd, addr+i*uffd.PageSize, s.buf); err != nil {
					return err
				}
			}
			return nil
		},
	})
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	served := make(chan error, 1)
	go func() {
		served <- p.Serve(ctx, l)
		_, _ = s.wake.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	}()
	for {
		select {
		case <-s.gone:
			return unix.ESRCH
		case err := <-served:
			if err != nil {
				return err
			}
			return s.release()
		default:
		}
		addr, waits, err := uffd.ReadFault(s.uffd)
		if err == nil && waits {
			err = s.want(p, addr)
		}
		if err == nil && !waits {
			err = s.sleep()
		}
		if err != nil {
			return err
		}
	}
}

// want has a page come that somebody waits for, or knows better.
func (s *server) want(p *migrate.Puller, addr uint64) error {
	for i, r := range s.Regions {
		if addr < r.Addr || addr-r.Addr >= r.Size {
			continue
		}
		page := (addr - r.Addr) / uffd.PageSize
		at := r.Addr + page*uffd.PageSize
		switch p.Fault(i, page) {
		case migrate.Never:
			return uffd.Copy(s.uffd, at, s.buf)
		case migrate.Arrived:
			return uffd.Wake(s.uffd, at, uffd.PageSize)
		default:
			return nil
		}
	}
	return fmt.Errorf("a fault at %#x, outside of the guest's memory", addr)
}
