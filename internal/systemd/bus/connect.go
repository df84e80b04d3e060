package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/hvctl/hvctl/internal/systemd"
	"github.com/hvctl/hvctl/internal/userns"
	"golang.org/x/sys/unix"
)

// privateSocket is where systemd itself answers, without a bus in between.
const privateSocket = "systemd/private"

// connect reaches the manager, by its own socket or else by the bus of its
// users.
func connect(ctx context.Context, user bool) (*dbus.Conn, error) {
	err := fmt.Errorf("%w: is it PID 1 here? Without --systemd-cgroup, cgroups are made through their file system", systemd.ErrMissing)
	if user {
		err = fmt.Errorf("%w, the user's: XDG_RUNTIME_DIR has to name the folder of a user who is logged in, or lingers (loginctl enable-linger)", systemd.ErrMissing)
	}
	for _, try := range endpoints(user) {
		conn, terr := open(ctx, try)
		if terr == nil {
			return conn, nil
		}
		err = fmt.Errorf("%w; %s: %w", err, try, terr)
	}
	return nil, err
}

// endpoint is where a manager may be met: a socket of its own, or a bus.
type endpoint struct {
	socket string
	bus    string // an address
}

func (e endpoint) String() string { return e.socket + e.bus }

func endpoints(user bool) []endpoint {
	if !user {
		return []endpoint{{socket: "/run/" + privateSocket}, {bus: "unix:path=/run/dbus/system_bus_socket"}}
	}
	var out []endpoint
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if filepath.IsAbs(dir) {
		out = append(out, endpoint{socket: filepath.Join(dir, privateSocket)})
	}
	if a := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); a != "" {
		out = append(out, endpoint{bus: a})
	} else if filepath.IsAbs(dir) {
		out = append(out, endpoint{bus: "unix:path=" + dbus.EscapeBusAddressValue(filepath.Join(dir, "bus"))})
	}
	return out
}

// open connects and says who we are.
func open(ctx context.Context, e endpoint) (conn *dbus.Conn, err error) {
	var own *net.UnixConn
	if e.bus != "" {
		conn, err = dbus.Dial(e.bus, dbus.WithContext(ctx))
	} else if own, err = net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: e.socket}); err == nil {
		conn, err = dbus.DialUnix(own, dbus.WithContext(ctx))
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	uid, err := outerUID()
	if err != nil {
		return nil, err
	}
	if err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.FormatUint(uint64(uid), 10))}); err != nil {
		return nil, err
	}
	if own != nil {
		return conn, awaitRead(own)
	}
	if err = conn.Hello(); err != nil {
		return nil, err
	}
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface(managerInterface), dbus.WithMatchMember("JobRemoved"))
	return conn, err
}

// awaitRead waits until the other end has read what we wrote. If systemd (252)
// reads the end of the introduction and the first message in one go, it looks
// at the message only when something else comes: nothing does, for we wait for
// the answer.
func awaitRead(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Microsecond) { //nolint:forbidigo // a condition with a deadline, of which nobody tells
		left, ierr := 0, error(nil)
		if err := raw.Control(func(fd uintptr) { left, ierr = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil || ierr != nil {
			return errors.Join(err, os.NewSyscallError("ioctl SIOCOUTQ", ierr))
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("systemd has not answered for %s", patience)
		}
	}
}

// outerUID is who we are for those outside of our user namespace.
func outerUID() (uint32, error) {
	own := uint32(os.Geteuid())
	if userns.IsHost() {
		return own, nil
	}
	m, err := userns.Current()
	if err != nil {
		return 0, err
	}
	for _, r := range m.UIDs {
		if own >= r.Inside && own-r.Inside < r.Size {
			return r.Outside + own - r.Inside, nil
		}
	}
	return own, nil
}
