package hostnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrCNI means that a CNI network could not be joined.
var ErrCNI = errors.New("cannot use the network")

// CNIInterface is what plugins call the interface that they make.
const CNIInterface = insideName

const (
	// cniTimeout bounds one run of a network's plugins.
	cniTimeout = 60 * time.Second
	// takeBackGrace bounds the waiting for who takes the same back already.
	takeBackGrace = 15 * time.Second
	// checkTimeout bounds CHECK, for which somebody waits.
	checkTimeout = 10 * time.Second
)

// CNIOptions say which CNI network an instance joins.
type CNIOptions struct {
	Program string   // hvctl-net; empty: the one beside this program
	Root    string   // the state root
	ID      string   // the instance's: CNI's container ID
	Network string   // the network's name
	ConfDir string   // where its configuration is
	Plugins []string // where plugins are
	MAC     net.HardwareAddr
	IP      netip.Addr
	DNS     []netip.Addr // empty takes the network's, else the host's
	Publish []Port       // by a plugin; host ports are not chosen
	// NetNS is a container's network namespace. nil: a namespace is made whose
	// interface a VM takes over (Adopt).
	NetNS *os.File
	// Keeper is that of Options.Keeper: it holds the namespace that is made, and runs
	// the plugins after Attach. Empty: this process does that.
	Keeper []string
	Apart  bool         // as Options.Apart
	Log    *slog.Logger // may be nil
}

// CNIRequest is what `hvctl-net cni VERB` is told.
type CNIRequest struct {
	ID      string     `json:"id"`
	Network string     `json:"network"`
	ConfDir string     `json:"confDir"`
	Plugins []string   `json:"plugins"`
	Cache   string     `json:"cache"` // libcni's
	NetNS   string     `json:"netns,omitempty"`
	IP      netip.Addr `json:"ip,omitzero"`
	MAC     string     `json:"mac,omitempty"`
	Publish []Port     `json:"publish,omitempty"`
}

// CNIAnswer is its answer.
type CNIAnswer struct {
	Error   string       `json:"error,omitempty"`
	MAC     string       `json:"mac,omitempty"`
	IP      netip.Prefix `json:"ip,omitzero"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	DNS     []netip.Addr `json:"dns,omitempty"`
}

// cniLink is an instance's place on a CNI network. Its record tells others what to
// take back when its owner is gone: a file with a shared lock of the owner's, or an
// exclusive one of who is taking it back.
type cniLink struct {
	program string
	request CNIRequest
	record  *os.File
}

// cniDir is where records are; libcni's cache is below it.
func cniDir(root string) string { return filepath.Join(root, "net", "cni") }

// AttachCNI joins an instance to a CNI network. What instances left there whose
// owners were killed is taken back first. ctx bounds all of it.
func AttachCNI(ctx context.Context, o CNIOptions) (_ *Attachment, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, p := range o.Publish {
		if p.HostPort == 0 {
			return nil, fmt.Errorf("%w: published port %d: the plugins of a CNI network choose no host port; give one", ErrOptions, p.Port)
		}
	}
	if err := checkPorts(o.Publish); err != nil {
		return nil, err
	}
	if err := CleanupCNI(ctx, o.Program, o.Root); err != nil {
		o.Log.Warn("taking back what dead instances left on CNI networks", "err", err)
	}
	a := &Attachment{}
	if o.NetNS != nil {
		a.ns, err = os.Open(fmt.Sprintf("/proc/self/fd/%d", o.NetNS.Fd()))
	} else {
		a.ns, err = newNetNS()
	}
	if err != nil {
		return nil, wrap("make a network namespace", err)
	}
	l := &cniLink{program: o.Program, request: CNIRequest{
		ID: o.ID, Network: o.Network, ConfDir: o.ConfDir, Plugins: o.Plugins, Cache: filepath.Join(cniDir(o.Root), "cache"),
		IP: o.IP, MAC: o.MAC.String(), Publish: o.Publish,
	}}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if err := l.lock(o.Root); err != nil {
		return nil, err
	}
	a.cni = l
	if err := a.holdNetNS(&o); err != nil {
		return nil, err
	}
	if err := l.note(); err != nil {
		return nil, err
	}
	got, err := l.run(ctx, "add")
	if err != nil {
		if o.IP.IsValid() { // most likely: it is somebody's
			err = fmt.Errorf("%w: %w", ErrAddressInUse, err)
		}
		return nil, err
	}
	if err := a.joined(got, &o); err != nil || a.keeper == nil {
		return a, err
	}
	err = errors.Join(a.keeper.tell(), a.ns.Close())
	a.ns = nil // it is the keeper's to hold
	return a, err
}

// holdNetNS settles by which path plugins find the namespace, which is the same for
// all of them, for they compare.
func (a *Attachment) holdNetNS(o *CNIOptions) (err error) {
	r := &a.cni.request
	if len(o.Keeper) == 0 {
		r.NetNS = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), a.ns.Fd())
		return nil
	}
	a.keeper, err = startKeeper(o.Keeper, kept{Root: o.Root, ID: o.ID, CNI: r, Program: o.Program}, []*os.File{a.ns}, o.Apart, o.Log)
	if err == nil {
		r.NetNS = fmt.Sprintf("/proc/%d/fd/%d", a.keeper.pid, keeperLink+1)
	}
	return err
}

// joined fills in what came of it.
func (a *Attachment) joined(got CNIAnswer, o *CNIOptions) (err error) {
	if err := Loopback(a.ns); err != nil {
		return err
	}
	if o.NetNS == nil {
		err := InNetNS(a.ns, func() error {
			tun, err := os.OpenFile(tunDevice, os.O_RDWR|unix.O_NONBLOCK, 0)
			if err != nil {
				return wrap("make a tap", err)
			}
			defer tun.Close()
			v, err := Adopt(tun)
			if err == nil && v == nil {
				err = fmt.Errorf("%w: its plugins made no interface", ErrCNI)
			}
			if err == nil {
				a.Tap, a.Queues, a.MAC, a.MTU, a.IP, a.Gateway = v.Tap, v.Queues, v.MAC, v.MTU, v.IP, v.Gateway
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("CNI network %s: %w", o.Network, err)
		}
	} else if a.MAC, err = net.ParseMAC(got.MAC); err != nil {
		return err
	}
	a.IP = got.IP
	if !a.Gateway.IsValid() {
		a.Gateway = got.Gateway
	}
	a.Ports = o.Publish
	for _, dns := range [][]netip.Addr{o.DNS, got.DNS, reachable(NameServers())} {
		if len(a.DNS) == 0 {
			a.DNS = dns
		}
	}
	return nil
}

// newNetNS makes a network namespace that lives as long as the file.
func newNetNS() (ns *os.File, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if err = os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET)); err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
	}()
	<-done
	return ns, err
}

// recordPath is where the record of an instance is.
func recordPath(root, id string) string { return filepath.Join(cniDir(root), id+".json") }

// lock makes the record and locks it, before there is anything to take back. It
// cannot be written through what remains open, for it names programs.
func (l *cniLink) lock(root string) error {
	dir := cniDir(root)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return wrap("make the network's state directory", err)
	}
	f, err := os.OpenFile(recordPath(root, l.request.ID), os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return wrap("record the network", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) // nobody else has it
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("record the network of instance %s: %w", shortID(l.request.ID), os.NewSyscallError("flock", err))
	}
	l.record = f
	return nil
}

// claim makes the record's lock ours alone, and says whether there is still
// something to take back. It waits for who is doing that until ctx ends.
func (l *cniLink) claim(ctx context.Context) (bool, error) {
	for {
		err := unix.Flock(int(l.record.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return false, os.NewSyscallError("flock", err)
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("wait for who takes back the network of instance %s: %w", shortID(l.request.ID), context.Cause(ctx))
		case <-time.After(leavePoll):
		}
	}
	ours, err := l.record.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Stat(l.record.Name())
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(ours, there), err
}

// note writes the record.
func (l *cniLink) note() error {
	b, err := json.Marshal(&l.request)
	if err == nil {
		err = os.WriteFile(l.record.Name(), b, 0o600)
	}
	return wrapNil("record the network of instance "+shortID(l.request.ID), err)
}

// run has hvctl-net do what verb says.
func (l *cniLink) run(ctx context.Context, verb string) (a CNIAnswer, err error) {
	program := l.program
	if program == "" {
		if program, err = besideUs(); err != nil {
			return a, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cniTimeout)
	defer cancel()
	in, err := json.Marshal(&l.request)
	if err != nil {
		return a, err
	}
	var out, text bytes.Buffer
	c := exec.CommandContext(ctx, program, "cni", verb)
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(in), &out, &text
	if err := c.Run(); err != nil {
		return a, fmt.Errorf("%w: %s of CNI network %s: %w: %s", ErrCNI, verb, l.request.Network, err, strings.TrimSpace(text.String()))
	}
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		return a, fmt.Errorf("%w: answer of hvctl-net: %w", ErrCNI, err)
	}
	if a.Error != "" {
		return a, fmt.Errorf("%w: %s", ErrCNI, a.Error)
	}
	return a, nil
}

// leave takes the instance off the network and forgets it, unless somebody else has.
// The record stays when that did not work, for the next who cleans up.
func (l *cniLink) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cniTimeout)
	defer cancel()
	there, err := l.claim(ctx)
	if err == nil && there {
		_, err = l.run(ctx, "del")
		if err == nil {
			err = os.Remove(l.record.Name())
		}
	}
	return errors.Join(err, l.record.Close())
}

// check says whether the network is as it was made.
func (l *cniLink) check() error {
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	_, err := l.run(ctx, "check")
	return err
}

// check says whether a CNI network is as it was made, in a word or an error's.
func (a *Attachment) check() string {
	check := a.cni.check
	if a.keeper != nil {
		check = func() error { return a.keeper.ask(checkCNI) }
	}
	if err := check(); err != nil {
		return err.Error()
	}
	return "ok"
}

// cleaning keeps the threads of a process from taking back the same.
var cleaning sync.Mutex

// CleanupCNI takes back what instances of a state root have on CNI networks whose
// owners were killed. program is hvctl-net; empty: the one beside us. It is
// harmless at any time.
func CleanupCNI(ctx context.Context, program, root string) error {
	cleaning.Lock()
	defer cleaning.Unlock()
	records, err := filepath.Glob(filepath.Join(cniDir(root), "*.json"))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range records {
		errs = append(errs, takeBack(ctx, program, name))
	}
	return errors.Join(errs...)
}

func takeBack(ctx context.Context, program, name string) error {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // somebody else was quicker
	}
	if err != nil {
		return err
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil && unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return f.Close() // its owner lives
	}
	l := &cniLink{program: program, record: f} // whose owner is gone, or who takes it back already
	waiting, cancel := context.WithTimeout(ctx, takeBackGrace)
	defer cancel()
	if there, err := l.claim(waiting); err != nil || !there {
		return errors.Join(err, f.Close())
	}
	if err := json.NewDecoder(f).Decode(&l.request); err != nil {
		f.Close()
		// Its writer was killed before it had anything else made.
		return os.Remove(name)
	}
	l.request.NetNS = "" // it is gone, and its number may be another's
	return l.leave(ctx)
}
