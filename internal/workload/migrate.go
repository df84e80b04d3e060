package workload

import (
	"context"
	"encoding/json"
	"os"
)

// Endpoint is one side's view of a connection between owners.
type Endpoint struct {
	Address string `json:"address"` // "unix:PATH", for this user alone, or "HOST:PORT", by TLS
	// Identity is the directory with this host's key, and Allow the fingerprints
	// of the hosts that may be at the other end; neither matters to a unix socket.
	Identity string   `json:"identity,omitempty"`
	Allow    []string `json:"allow,omitempty"`
}

// Receive says where to wait for a VM, and what it may find here.
type Receive struct {
	Endpoint
	// Images is the folder that the image of its root file system has to be in: the
	// sender chooses the name of the file, not its place.
	Images string `json:"images"`
	// Lent are the directories that a VM may have here in place of those that it shared
	// where it was. The sender names one of them.
	Lent []Lent `json:"lent,omitempty"`
}

// Lent is a directory of this host for a VM that comes.
type Lent struct {
	Path     string `json:"path"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// MigrateRequest is what hvctl migrate send asks for. Zero values are package
// migrate's defaults.
type MigrateRequest struct {
	To         Endpoint `json:"to"`
	DowntimeNs int64    `json:"downtimeNs,omitempty"`
	TimeoutNs  int64    `json:"timeoutNs,omitempty"`
	Streams    int      `json:"streams,omitempty"`
	Rate       uint64   `json:"rate,omitempty"`      // bytes per second
	Compress   string   `json:"compress,omitempty"`  // auto, none, s2 or zstd
	OnTimeout  string   `json:"onTimeout,omitempty"` // cancel, force, throttle or postcopy
	AtOnce     bool     `json:"atOnce,omitempty"`    // postcopy without copying anything before
	Binds      []string `json:"binds,omitempty"`     // KIND:NAME=ACTION[:ARG], for the plan

	// Dialer is an open file that comes with the request: at its other end somebody
	// connects to To.Address for the owner (transport.ServeDial). Nil: the owner
	// connects itself, if it can. It goes to who is asked.
	Dialer *os.File `json:"-"`

	// Left is called, at most once, when the instance runs elsewhere on memory that
	// is partly here: from then on Away fails. Nil: nobody wants to know.
	Left func() `json:"-"`
}

// MigrationState is where a migration away from here has got to.
type MigrationState string

// The states.
const (
	MigrationNone  MigrationState = "none"  // never tried
	MigrationGoing MigrationState = "going" // it can be cancelled
	// MigrationServing: the instance runs elsewhere, on memory that is partly here.
	MigrationServing MigrationState = "serving"
	MigrationOver    MigrationState = "over"     // the instance goes on here; the report says why
	MigrationInDoubt MigrationState = "in-doubt" // the instance stands still here
)

// MigrationStatus says what is known of the latest migration away from here.
type MigrationStatus struct {
	State   MigrationState  `json:"state"`
	To      string          `json:"to,omitempty"`
	BeganNs int64           `json:"beganNs,omitempty"` // Unix time
	Error   string          `json:"error,omitempty"`
	Report  json.RawMessage `json:"report,omitempty"` // migrate.Report, so far
}

// Migrator is a Runtime that can be sent to another owner.
type Migrator interface {
	// Migrate returns a report (migrate.Report as JSON), which may say more when
	// there is an error. After success the first process's Wait returns: the
	// instance goes on elsewhere. After an error it goes on here, unless the
	// error says that this is in doubt.
	Migrate(ctx context.Context, r MigrateRequest) (json.RawMessage, error)
	// Plan says what Migrate would do with everything that the instance is bound
	// to, as plan.Plan in JSON. It has no effect.
	Plan(ctx context.Context, r MigrateRequest) (json.RawMessage, error)
	// Migration says what is known of the latest one.
	Migration() MigrationStatus
	// CancelMigration calls the one under way off and returns when that is done.
	// The error says so when there is none, or when it came too late.
	CancelMigration(ctx context.Context) error
	// RecoverMigration dials a destination now that waits for memory from here, and
	// returns when it is reached, or was not for a while.
	RecoverMigration(ctx context.Context) error
	// Away says why nothing but Kill, Stats and the methods of this interface may be
	// asked of an instance here: it runs elsewhere, on memory that is partly here.
	// The error wraps ErrNotRunning. Nil: it is here.
	Away() error
	// Resolve is an operator's word on a migration in doubt.
	Resolve(ctx context.Context, keep Keep) error
}

// Keep says which side keeps an instance whose migration is in doubt.
type Keep string

// The sides.
const (
	KeepSource      Keep = "source"
	KeepDestination Keep = "destination"
)

// Reconfigured is a Runtime that learns what it is only in Start: a VM that was
// received.
type Reconfigured interface {
	// NewConfig returns the configuration that holds from now on, or nil.
	NewConfig() *Config
}
