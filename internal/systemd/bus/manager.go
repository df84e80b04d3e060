package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/hvctl/hvctl/internal/systemd"
	"golang.org/x/sys/unix"
)

// Names of systemd's interface.
const (
	service          = "org.freedesktop.systemd1"
	objectPath       = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerInterface = service + ".Manager"
	scopeInterface   = service + ".Scope"
	unitInterface    = service + ".Unit"

	errUnitExists = service + ".UnitExists"
	errNoUnit     = service + ".NoSuchUnit"
	errNotLoaded  = service + ".UnitNotLoaded"
)

// patience is how long systemd may take for one request.
const patience = 30 * time.Second

// Manager is a systemd.Manager. It connects when it is first asked something;
// its methods are not for concurrent use.
type Manager struct {
	user    bool
	conn    *dbus.Conn
	jobs    chan *dbus.Signal
	version int
}

// New is the manager of this caller: the system's for root, a user's own for
// everybody else, among them the root of a user's namespace.
func New() *Manager { return &Manager{user: !ownsSystem()} }

// User says whether it is a user's.
func (m *Manager) User() bool { return m.user }

// ownsSystem says that the system's manager is ours to ask: we are root, and
// what we see as root's is ours, which in a user namespace the host's is not.
func ownsSystem() bool {
	var st unix.Stat_t
	return os.Geteuid() == 0 && (unix.Stat("/run/systemd", &st) != nil || st.Uid == 0)
}

// connected makes the connection, and bounds what follows.
func (m *Manager) connected(ctx context.Context) (context.Context, context.CancelFunc, error) {
	bounded, cancel := context.WithTimeout(ctx, patience)
	if m.conn != nil {
		return bounded, cancel, nil
	}
	conn, err := connect(context.WithoutCancel(ctx), m.user)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	m.conn, m.jobs = conn, make(chan *dbus.Signal, 64)
	conn.Signal(m.jobs)
	if err := m.call(bounded, "Subscribe"); err != nil {
		cancel()
		return nil, nil, err
	}
	return bounded, cancel, nil
}

// call asks the manager something; out receives the answer.
func (m *Manager) call(ctx context.Context, method string, args ...any) error {
	return m.ask(ctx, method, args).Err
}

func (m *Manager) ask(ctx context.Context, method string, args []any) *dbus.Call {
	return m.conn.Object(service, objectPath).CallWithContext(ctx, managerInterface+"."+method, 0, args...)
}

// job starts a job and waits for its end.
func (m *Manager) job(ctx context.Context, method string, args ...any) error {
	var path dbus.ObjectPath
	if err := m.ask(ctx, method, args).Store(&path); err != nil {
		return err
	}
	for {
		select {
		case s, ok := <-m.jobs:
			if !ok {
				return errors.New("systemd closed the connection")
			}
			// JobRemoved(u id, o job, s unit, s result)
			if s.Name != managerInterface+".JobRemoved" || len(s.Body) != 4 || s.Body[1] != path {
				continue
			}
			if result, _ := s.Body[3].(string); result != "done" {
				return fmt.Errorf("the job ended with %q", s.Body[3])
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// is says that systemd answered with one of these errors.
func is(err error, names ...string) bool {
	var e dbus.Error
	return errors.As(err, &e) && slices.Contains(names, e.Name)
}

// transient is a property as D-Bus has it: (sv).
type transient struct {
	Name  string
	Value dbus.Variant
}

// auxiliary is a further unit of StartTransientUnit: (sa(sv)).
type auxiliary struct {
	Name  string
	Props []transient
}

// deviceLimit is (st).
type deviceLimit struct {
	Path  string
	Limit uint64
}

// properties turns ours into D-Bus's, without those that this systemd does not
// know.
func (m *Manager) properties(ctx context.Context, props []systemd.Property) ([]transient, error) {
	out := make([]transient, 0, len(props))
	for _, p := range props {
		if p.Since > 0 {
			if v, err := m.systemdVersion(ctx); err != nil {
				return nil, err
			} else if v < p.Since {
				continue
			}
		}
		value := p.Value
		if list, ok := value.([]systemd.DeviceLimit); ok {
			limits := make([]deviceLimit, len(list))
			for i, d := range list {
				limits[i] = deviceLimit(d)
			}
			value = limits
		}
		out = append(out, transient{p.Name, dbus.MakeVariant(value)})
	}
	return out, nil
}

// systemdVersion is the number that its version begins with, "252.38-1~deb12u1".
func (m *Manager) systemdVersion(ctx context.Context) (int, error) {
	if m.version > 0 {
		return m.version, nil
	}
	text, err := m.property(ctx, objectPath, managerInterface, "Version")
	if err != nil {
		return 0, err
	}
	digits := strings.TrimLeft(text, "v")
	if i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = digits[:i]
	}
	if m.version, err = strconv.Atoi(digits); err != nil {
		return 0, fmt.Errorf("systemd's version %q is not understood", text)
	}
	return m.version, nil
}

// property reads a property that is text.
func (m *Manager) property(ctx context.Context, object dbus.ObjectPath, iface, name string) (string, error) {
	var v dbus.Variant
	err := m.conn.Object(service, object).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, iface, name).Store(&v)
	if err != nil {
		return "", err
	}
	text, ok := v.Value().(string)
	if !ok {
		return "", fmt.Errorf("systemd's property %s is no text", name)
	}
	return text, nil
}

// failed says what could not be done.
func failed(what, unit string, err error) error {
	switch {
	case err == nil:
		return nil
	case is(err, errUnitExists):
		err = systemd.ErrExist
	case is(err, errNoUnit, errNotLoaded):
		err = systemd.ErrNoUnit
	}
	return fmt.Errorf("systemd: %s %s: %w", what, unit, err)
}

// Start implements systemd.Manager.
func (m *Manager) Start(ctx context.Context, unit string, props []systemd.Property) error {
	ctx, cancel, err := m.connected(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	list, err := m.properties(ctx, props)
	if err != nil {
		return failed("start", unit, err)
	}
	err = m.job(ctx, "StartTransientUnit", unit, "fail", list, []auxiliary{})
	if is(err, errUnitExists) && m.call(ctx, "ResetFailedUnit", unit) == nil {
		// One that failed is kept to be looked at, unless it is told otherwise.
		err = m.job(ctx, "StartTransientUnit", unit, "fail", list, []auxiliary{})
	}
	return failed("start", unit, err)
}

// Set implements systemd.Manager.
func (m *Manager) Set(ctx context.Context, unit string, props []systemd.Property) error {
	ctx, cancel, err := m.connected(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	list, err := m.properties(ctx, props)
	if err == nil && len(list) > 0 {
		err = m.call(ctx, "SetUnitProperties", unit, true, list)
	}
	return failed("change", unit, err)
}

// Stop implements systemd.Manager.
func (m *Manager) Stop(ctx context.Context, unit string) error {
	ctx, cancel, err := m.connected(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	if err := m.job(ctx, "StopUnit", unit, "replace"); err != nil {
		if is(err, errNoUnit, errNotLoaded) {
			return nil
		}
		return failed("stop", unit, err)
	}
	_ = m.call(ctx, "ResetFailedUnit", unit) // nearly always it is gone by now
	return nil
}

// Find implements systemd.Manager.
func (m *Manager) Find(ctx context.Context, unit string) (group, description string, err error) {
	ctx, cancel, err := m.connected(ctx)
	if err != nil {
		return "", "", err
	}
	defer cancel()
	var object dbus.ObjectPath
	if err := m.ask(ctx, "GetUnit", []any{unit}).Store(&object); err != nil {
		return "", "", failed("find", unit, err)
	}
	group, err = m.property(ctx, object, scopeInterface, "ControlGroup")
	if err == nil && group == "" { // it has ended, and is about to go
		err = systemd.ErrNoUnit
	}
	if err == nil {
		description, err = m.property(ctx, object, unitInterface, "Description")
	}
	return group, description, failed("find", unit, err)
}
