package container

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hvctl/hvctl/internal/criu"
	"github.com/hvctl/hvctl/internal/systemd"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Runtime manages the containers below one state root.
type Runtime struct {
	Root string
	Log  *slog.Logger
	// Cgroups makes and finds the containers' groups; nil: they have none.
	Cgroups Cgroups
	// Systemd returns what makes the groups of containers with a scope, and for
	// that needs Cgroups to be the host's. It is asked when there is one to make,
	// change or delete, and may be asked several times; nil: there are no such
	// containers.
	Systemd func() (systemd.Manager, error)
	// Scopes has systemd make the groups of new containers.
	Scopes bool
	// CRIU is what saves and restores containers; nil: nothing does.
	CRIU criu.Driver
}

// cgroup finds a container's group; nil without error when it has none. One
// that systemd made is like all others but for who changes and deletes it
// (ownGroup).
func (r *Runtime) cgroup(rec *record) (Cgroup, error) {
	switch {
	case r.Cgroups == nil:
		return nil, nil
	case len(rec.Cgroup) > 0:
		return r.Cgroups.Load(rec.Cgroup)
	case rec.CgroupPath != "": // died between making the group and saying so
		return r.Cgroups.Open(rec.CgroupPath)
	}
	return nil, nil
}

// ownGroup is cgroup for whoever changes or deletes the group.
func (r *Runtime) ownGroup(rec *record) (Cgroup, error) {
	if rec.Unit == "" || r.Cgroups == nil {
		return r.cgroup(rec)
	}
	s, err := r.systemdScopes()
	if err != nil {
		return nil, err
	}
	if len(rec.Cgroup) == 0 { // died between making the scope and saying so
		return s.find(context.Background(), rec.Unit, rec.ID)
	}
	g, err := s.sys.Load(rec.Cgroup)
	if err != nil {
		return nil, err
	}
	return &scopeGroup{hostGroup: hostGroup{g}, scopes: s, unit: rec.Unit}, nil
}

// HasScope says whether systemd made the group of a container. One that does not
// exist has none.
func (r *Runtime) HasScope(id string) bool {
	d, err := r.openDir(id)
	if err != nil {
		return false
	}
	defer d.close()
	rec, err := d.load()
	return err == nil && rec != nil && rec.Unit != ""
}

func (r *Runtime) paused(rec *record) bool {
	g, err := r.cgroup(rec)
	if err != nil || g == nil {
		return false
	}
	frozen, err := g.Frozen()
	return err == nil && frozen
}

// cgroupPath is where a container's group lives; when its configuration does
// not say, one level below the root, so that all of ours are found.
func cgroupPath(s *specs.Spec, id string) string {
	if s.Linux != nil && s.Linux.CgroupsPath != "" {
		return s.Linux.CgroupsPath
	}
	return "/hvctl-oci/" + id
}

// scope is a new container's, and nothing without Scopes.
func (r *Runtime) scope(s *specs.Spec, id string) (systemd.Scope, error) {
	if !r.Scopes {
		return systemd.Scope{}, nil
	}
	scopes, err := r.systemdScopes()
	if err != nil {
		return systemd.Scope{}, err
	}
	path := systemd.DefaultPath(id)
	if s.Linux != nil && s.Linux.CgroupsPath != "" {
		path = s.Linux.CgroupsPath
	}
	return systemd.ParsePath(path, scopes.manager.User())
}

// rootfs is a bundle's root file system, without symbolic links.
func rootfs(bundle string, s *specs.Spec) (string, error) {
	p := s.Root.Path
	if !filepath.IsAbs(p) {
		p = filepath.Join(bundle, p)
	}
	p, err := filepath.EvalSymlinks(p)
	if err != nil {
		return "", fmt.Errorf("root.path: %w", err)
	}
	st, err := os.Stat(p)
	if err != nil {
		return "", fmt.Errorf("root.path: %w", err)
	}
	if !st.IsDir() {
		return "", fmt.Errorf("root.path: %s is not a directory", p)
	}
	return p, nil
}

// listen makes the socket on which the first process waits for its start. The
// name is given through the directory's descriptor: paths can be longer than
// a socket's name may be.
func (d *dir) listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: d.socketName()}); err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("listen for the start", err)
	}
	return os.NewFile(uintptr(fd), startSocket), nil
}

func (d *dir) socketName() string {
	return "/proc/self/fd/" + strconv.Itoa(d.fd) + "/" + startSocket
}

// patience is how long the waiting first process may take for an answer.
const patience = 5 * time.Second

// dial connects to the waiting first process. Package net would cost each start
// of the runtime 0.1 ms for its preparations.
func (d *dir) dial() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: d.socketName()}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), startSocket), nil
}

// connectUnix connects to somebody's socket, such as --console-socket.
func connectUnix(what, path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s %s: %w", what, path, err)
	}
	return os.NewFile(uintptr(fd), what), nil
}

// writePIDFile writes the number alone, complete or not at all.
func writePIDFile(name string, pid int) error {
	if name == "" {
		return nil
	}
	tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".tmp")
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return fmt.Errorf("--pid-file: %w", err)
	}
	if err := os.Rename(tmp, name); err != nil {
		return fmt.Errorf("--pid-file: %w", err)
	}
	return nil
}

// pidfd opens the recorded process, verified to be still the one.
func (rec *record) pidfd() (int, error) {
	fd, err := unix.PidfdOpen(rec.PID, 0)
	if err != nil {
		return -1, fmt.Errorf("container %q: %w", rec.ID, ErrNotRunning)
	}
	if !rec.alive() {
		unix.Close(fd)
		return -1, fmt.Errorf("container %q: %w", rec.ID, ErrNotRunning)
	}
	return fd, nil
}
