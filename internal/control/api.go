package control

import (
	"os"

	"time"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Info is the answer to GET /v1/instance.
type Info struct {
	Config  *workload.Config `json:"config"`
	State   workload.State   `json:"state"`
	Execs   []string         `json:"execs,omitempty"`   // IDs of running exec sessions
	Inspect map[string]any   `json:"inspect,omitempty"` // what the backend adds
}

// SignalRequest is the body of POST /v1/signal.
type SignalRequest struct {
	Signal string `json:"signal"`         // as workload.ParseSignal reads it
	Exec   string `json:"exec,omitempty"` // an exec session in place of the first process
}

// UpgradeRequest is the body of POST /v1/upgrade. The client has started the new
// owner, which waits on the link; two open files come with the request.
type UpgradeRequest struct {
	Program string `json:"program"` // of the new owner, for the record
	PID     int    `json:"pid"`

	Link    *os.File `json:"-"` // the first: to the new owner (package handoff)
	Process *os.File `json:"-"` // the second: a pidfd of it
}

// StopRequest is the body of POST /v1/stop. The answer, a workload.Exit,
// comes when the instance has ended.
type StopRequest struct {
	Signal string `json:"signal,omitempty"` // empty: the instance's stop signal
	// TimeoutSeconds is the wait after the signal; absent: the instance's
	// own, negative: for ever.
	TimeoutSeconds *int `json:"timeoutSeconds,omitempty"`
}

// SnapshotRequest is the body of POST /v1/snapshot. The answer is a
// workload.SnapshotReport.
type SnapshotRequest struct {
	// Dir is an empty directory, an absolute path, which the owner fills.
	Dir string `json:"dir"`
	// Bases are the files of the snapshot to store the differences from, and of
	// those below it.
	Bases []string `json:"bases,omitempty"`
	// Open is how many of those come as open files with the request, in place of Bases:
	// an owner with a user of its own may open nobody else's.
	Open  int        `json:"open,omitempty"`
	Files []*os.File `json:"-"`
}

// DumpRequest is the body of POST /v1/dump. The answer is a
// workload.DumpReport.
type DumpRequest struct {
	File string `json:"file"` // an absolute path of what does not exist yet
}

// ResolveRequest is the body of POST /v1/resolve.
type ResolveRequest struct {
	Keep workload.Keep `json:"keep"`
}

// ResizeRequest is the body of POST /v1/resize.
type ResizeRequest struct {
	Exec    string `json:"exec,omitempty"`
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

// AttachRequest is the body of POST /v1/attach.
type AttachRequest struct {
	Stdin bool `json:"stdin,omitempty"` // forward standard input
	// StdinOnce closes the process's standard input when this client goes
	// away without a detach frame.
	StdinOnce bool `json:"stdinOnce,omitempty"`
}

// ExecRequest is the body of POST /v1/exec. Without Detach the connection is
// upgraded; with it the answer is ExecStarted.
type ExecRequest struct {
	Process *specs.Process `json:"process"`
	Stdin   bool           `json:"stdin,omitempty"`
	Detach  bool           `json:"detach,omitempty"`
}

// ExecStarted is the answer to an exec that nobody is attached to.
type ExecStarted struct {
	ID string `json:"id"`
}

// CopyRequest is the body of POST /v1/copy. The connection is upgraded; the
// tar stream is standard input or output.
type CopyRequest = workload.Copy

// Event types.
const (
	EventStart     = "start"
	EventPause     = "pause"
	EventResume    = "resume"
	EventSignal    = "signal"
	EventUpdate    = "update"
	EventPlug      = "plug"
	EventUnplug    = "unplug"
	EventSnapshot  = "snapshot"
	EventMigrate   = "migrate"
	EventUpgrade   = "upgrade"
	EventStop      = "stop"
	EventExecStart = "exec_start"
	EventExecExit  = "exec_exit"
	EventOOM       = "oom"
	EventExit      = "exit"
)

// Event is one line of GET /v1/events.
type Event struct {
	Time time.Time         `json:"time"`
	Type string            `json:"type"`
	ID   string            `json:"id"`
	Name string            `json:"name"`
	Attr map[string]string `json:"attributes,omitempty"`
}
