package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hvctl/hvctl/container/program"
	"github.com/hvctl/hvctl/internal/plainjson"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Status is where a container is in its life (runtime.md, "State").
type Status string

// The life of a container.
const (
	Creating Status = "creating"
	Created  Status = "created"
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
)

// step is something one can do with a container.
type step string

const (
	stepStart  step = "start"
	stepKill   step = "kill"
	stepExec   step = "exec"
	stepPause  step = "pause"
	stepResume step = "resume"
	stepUpdate step = "update"
	stepDelete step = "delete"

	stepCheckpoint step = "checkpoint"
)

// legal says in which states a step may be taken.
var legal = map[step]map[Status]bool{
	stepStart:  {Created: true},
	stepKill:   {Created: true, Running: true, Paused: true},
	stepExec:   {Created: true, Running: true},
	stepPause:  {Created: true, Running: true},
	stepResume: {Paused: true},
	stepUpdate: {Created: true, Running: true, Paused: true},
	stepDelete: {Stopped: true},

	stepCheckpoint: {Running: true, Paused: true},
}

// check returns why the step cannot be taken; nil when it can.
func (s step) check(id string, st Status) error {
	if legal[s][st] {
		return nil
	}
	if s == stepDelete {
		return fmt.Errorf("cannot delete container %q that is not stopped: %w: it is %s; --force kills it first", id, ErrState, st)
	}
	if st == Stopped && s != stepStart {
		return fmt.Errorf("cannot %s container %q: %w", s, id, ErrNotRunning)
	}
	return fmt.Errorf("cannot %s container %q: %w: it is %s", s, id, ErrState, st)
}

// record is what state.json keeps.
type record struct {
	Version    int               `json:"version"`
	OCIVersion string            `json:"ociVersion"`
	ID         string            `json:"id"`
	Bundle     string            `json:"bundle"`
	Rootfs     string            `json:"rootfs"`
	Created    time.Time         `json:"created"`
	Owner      int               `json:"owner"`
	PID        int               `json:"pid,omitempty"`     // 0: no process yet
	PIDStart   uint64            `json:"pidStart,omitzero"` // its start time, so that a PID used again is noticed
	Annot      map[string]string `json:"annotations,omitempty"`
	CgroupPath string            `json:"cgroupPath,omitempty"`
	Unit       string            `json:"unit,omitempty"`   // systemd's, that the cgroup is of
	Cgroup     map[string]string `json:"cgroup,omitempty"` // directories by controller
	UserNS     bool              `json:"userns,omitempty"`
	Keyring    string            `json:"keyring,omitempty"` // session keyring's name
	NoHooks    bool              `json:"noHooks,omitempty"` // start and delete need not read the configuration
}

const recordVersion = 1

func (d *dir) load() (*record, error) {
	b, err := os.ReadFile(d.file(stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // died while it was created
	}
	if err != nil {
		return nil, err
	}
	rec := new(record)
	if plainjson.Decode(b, rec) {
		return rec.known(d)
	}
	if err := json.Unmarshal(b, rec); err != nil && !d.ready() {
		return nil, nil // the same: only the first time it is not written as a whole
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", d.file(stateFile), err)
	}
	return rec.known(d)
}

// known refuses a record of another version.
func (rec *record) known(d *dir) (*record, error) {
	if rec.Version != recordVersion {
		return nil, fmt.Errorf("%s: version %d, this runtime knows %d", d.file(stateFile), rec.Version, recordVersion)
	}
	return rec, nil
}

// save writes the record; the first time there is nothing to be replaced.
func (d *dir) save(rec *record, first bool) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if first {
		return os.WriteFile(d.file(stateFile), b, 0o600)
	}
	return d.replace(stateFile, b)
}

// alive says whether the recorded process is still the one it was, and runs.
func (rec *record) alive() bool {
	if rec.PID <= 0 {
		return false
	}
	st, err := readStat(rec.PID)
	if err != nil || st.start != rec.PIDStart || st.state == 'X' {
		return false
	}
	return st.state != 'Z' || threadsLeft(rec.PID)
}

// threadsLeft says of a process that looks like a zombie whether only its first
// thread has ended.
func threadsLeft(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) // readable when all have
	return err == nil && n == 0
}

// procStat is what we need of /proc/PID/stat.
type procStat struct {
	state byte
	start uint64
}

func readStat(pid int) (s procStat, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return s, err
	}
	// The second field is the program's name and may hold anything.
	i := strings.LastIndexByte(string(b), ')')
	f := strings.Fields(string(b[i+1:]))
	const start = 22 - 3 // field 22; the fields left begin with the third
	if i < 0 || len(f) <= start {
		return s, fmt.Errorf("/proc/%d/stat: not understood", pid)
	}
	s.state = f[0][0]
	s.start, err = strconv.ParseUint(f[start], 10, 64)
	return s, err
}

// status works out where the container is.
func (r *Runtime) status(d *dir, rec *record) Status {
	switch {
	case !d.ready():
		return Creating // or that was interrupted
	case !rec.alive():
		return Stopped
	case r.paused(rec):
		return Paused
	case d.waiting():
		return Created
	}
	return Running
}

// waiting asks whether the first process still waits to be started. The
// socket's file alone does not tell: a start that was killed leaves it.
func (d *dir) waiting() bool {
	conn, err := d.dial()
	if err != nil {
		return false
	}
	defer conn.Close()
	fd := int(conn.Fd())
	bound := unix.NsecToTimeval(patience.Nanoseconds())
	if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &bound) != nil ||
		unix.Send(fd, []byte{program.Ping}, unix.MSG_NOSIGNAL) != nil {
		return false
	}
	var answer [1]byte
	n, err := conn.Read(answer[:])
	return err == nil && n == 1 && answer[0] == program.Pong
}

// State is what `state` shows; the keys are runc's.
type State struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      Status            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

// State reports on one container. The error wraps ErrNotExist.
func (r *Runtime) State(id string) (*State, error) {
	d, err := r.openDir(id)
	if err != nil {
		return nil, err
	}
	defer d.close()
	return r.state(d, id)
}

func (r *Runtime) state(d *dir, id string) (*State, error) {
	rec, err := d.load()
	if err != nil {
		return nil, err
	}
	if rec == nil {
		return nil, fmt.Errorf("container %q: %w: it is being created, or its creation was interrupted", id, ErrNotExist)
	}
	st := &State{
		OCIVersion: rec.OCIVersion, ID: rec.ID, PID: rec.PID, Status: r.status(d, rec), Bundle: rec.Bundle, Rootfs: rec.Rootfs,
		Created: rec.Created, Annotations: rec.Annot, Owner: ownerName(rec.Owner),
	}
	if st.Status == Stopped {
		st.PID = 0
	}
	return st, nil
}

// List reports on every container below the root.
func (r *Runtime) List() ([]*State, error) {
	entries, err := os.ReadDir(r.Root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []*State
	for _, e := range entries {
		if st, err := r.State(e.Name()); err == nil {
			out = append(out, st)
		}
	}
	return out, nil
}

// ownerName is a user's name; package os/user would link the resolver.
func ownerName(uid int) string {
	if uid == 0 {
		return "root"
	}
	return "#" + strconv.Itoa(uid)
}

// hookState is the state that hooks read.
func (rec *record) hookState(st Status) []byte {
	pid := rec.PID
	if st == Stopped {
		pid = 0
	}
	b, _ := json.Marshal(specs.State{ // plain data
		Version: rec.OCIVersion, ID: rec.ID, Status: specs.ContainerState(st), Pid: pid, Bundle: rec.Bundle, Annotations: rec.Annot,
	})
	return b
}
