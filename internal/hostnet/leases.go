package hostnet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
)

// leases is the lease file of one bridge. It is read and written under the
// lock only.
type leases struct {
	Subnet netip.Prefix     `json:"subnet"` // zero: not chosen yet
	Last   netip.Addr       `json:"last"`   // the address given out last
	ByID   map[string]lease `json:"leases"`

	path string
}

// lease is what one instance holds.
type lease struct {
	IP    netip.Addr `json:"ip"`
	MAC   string     `json:"mac"`
	Link  string     `json:"link"` // interface on the host
	Ports []Port     `json:"ports,omitempty"`
}

func leasePath(root, bridge string) string {
	return filepath.Join(root, "net", bridge+".json")
}

// loadLeases reads the lease file; a missing or empty one has no leases.
func loadLeases(root, bridge string) (*leases, error) {
	l := &leases{ByID: map[string]lease{}, path: leasePath(root, bridge)}
	data, err := os.ReadFile(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(data) == 0:
		return l, nil
	case err != nil:
		return nil, wrap("read the leases", err)
	}
	if err := l.decode(data); err != nil {
		return nil, fmt.Errorf("%w: %s: %w; stop the instances that use bridge %s and remove the file", ErrState, l.path, err, bridge)
	}
	return l, nil
}

func (l *leases) decode(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(l); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the end")
	}
	if l.ByID == nil {
		l.ByID = map[string]lease{}
	}
	if s := l.Subnet; s.IsValid() && (!s.Addr().Is4() || s.Bits() < 8 || s.Bits() > 29) {
		return fmt.Errorf("network %s is not IPv4, /8 to /29", s)
	}
	for id, le := range l.ByID {
		mac, err := net.ParseMAC(le.MAC)
		switch {
		case err != nil || !validMAC(mac):
			return fmt.Errorf("lease of %q has the MAC address %q", id, le.MAC)
		case !le.IP.Is4():
			return fmt.Errorf("lease of %q has the address %s", id, le.IP)
		case !validIfName(le.Link):
			return fmt.Errorf("lease of %q has the interface %q", id, le.Link)
		}
	}
	return nil
}

// save replaces the lease file in one step: a reader, or the next run after a
// kill, sees the old or the new one. Without leases the file goes.
func (l *leases) save() error {
	if len(l.ByID) == 0 {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return wrap("remove the leases", err)
		}
		return nil
	}
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	tmp := l.path + ".new" // one writer at a time: the lock is held
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return wrap("write the leases", err)
	}
	if err := os.Rename(tmp, l.path); err != nil {
		return wrap("write the leases", err)
	}
	return nil
}

// gateway is the first address of the network, the bridge's own.
func gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// broadcast is the last address of the network.
func broadcast(subnet netip.Prefix) netip.Addr {
	b := subnet.Masked().Addr().As4()
	for i := subnet.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// take gives o.ID an address: the wanted one, else the next free one after the
// one given out last, so that an address rests before it is used again.
// reclaim is called once when it may help; it takes dead leases back.
func (l *leases) take(o *Options, reclaim func()) (lease, error) {
	delete(l.ByID, o.ID) // of an earlier run that was killed
	le, err := l.tryTake(o)
	if errors.Is(err, ErrExhausted) || errors.Is(err, ErrAddressInUse) {
		reclaim()
		le, err = l.tryTake(o)
	}
	if err != nil {
		return lease{}, err
	}
	l.ByID[o.ID] = le
	l.Last = le.IP
	return le, nil
}

func (l *leases) tryTake(o *Options) (lease, error) {
	mac := o.MAC
	if mac == nil {
		mac = DeriveMAC(o.ID)
	}
	used := make(map[netip.Addr]string, len(l.ByID))
	for id, le := range l.ByID {
		used[le.IP] = id
		if le.MAC == mac.String() {
			return lease{}, fmt.Errorf("%w: MAC %s belongs to instance %s", ErrAddressInUse, mac, shortID(id))
		}
	}
	le := lease{MAC: mac.String(), Link: linkName(o.ID)}
	gw, last := gateway(l.Subnet), broadcast(l.Subnet)
	if o.IP.IsValid() {
		switch id, taken := used[o.IP]; {
		case taken:
			return lease{}, fmt.Errorf("%w: %s belongs to instance %s", ErrAddressInUse, o.IP, shortID(id))
		case !l.Subnet.Contains(o.IP) || o.IP == l.Subnet.Masked().Addr() || o.IP == gw || o.IP == last:
			return lease{}, fmt.Errorf("%w: address %s is not one of the addresses %s to %s of bridge %s",
				ErrOptions, o.IP, gw.Next(), last.Prev(), o.Bridge)
		}
		le.IP = o.IP
		return le, nil
	}
	first := gw.Next()
	start := first
	if l.Last.IsValid() && l.Subnet.Contains(l.Last) && l.Last.Next().Less(last) && first.Less(l.Last.Next()) {
		start = l.Last.Next()
	}
	for a := start; ; {
		if _, taken := used[a]; !taken {
			le.IP = a
			return le, nil
		}
		if a = a.Next(); a == last {
			a = first
		}
		if a == start {
			return lease{}, fmt.Errorf("%w: all of bridge %s (%s) are leased to running instances", ErrExhausted, o.Bridge, l.Subnet)
		}
	}
}

// reclaim drops the leases whose owner is dead and reports how many there
// were. self is never dropped.
func (l *leases) reclaim(self string, alive func(id, link string) bool) int {
	n := 0
	for id, le := range l.ByID {
		if id != self && !alive(id, le.Link) {
			delete(l.ByID, id)
			n++
		}
	}
	return n
}

// holderOf is the instance that publishes a host port, or "".
func (l *leases) holderOf(p Port) string {
	for id, le := range l.ByID {
		for _, q := range le.Ports {
			if q.Protocol == p.Protocol && q.HostPort == p.HostPort {
				return id
			}
		}
	}
	return ""
}

func shortID(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}
