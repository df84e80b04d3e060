package workload

import (
	"context"
	"encoding/json"
)

// Receive says where to wait for a VM.
type Receive struct {
	Listen string `json:"listen"` // "unix:PATH" or "tcp:ADDRESS:PORT"
}

// MigrateRequest is what hvctl migrate send asks for. Zero values are package
// migrate's defaults.
type MigrateRequest struct {
	To         string `json:"to"` // as Receive.Listen
	DowntimeNs int64  `json:"downtimeNs,omitempty"`
	TimeoutNs  int64  `json:"timeoutNs,omitempty"`
	Streams    int    `json:"streams,omitempty"`
	Rate       uint64 `json:"rate,omitempty"`      // bytes per second
	OnTimeout  string `json:"onTimeout,omitempty"` // cancel or force
}

// Migrator is a Runtime that can be sent to another owner.
type Migrator interface {
	// Migrate returns a report (migrate.Report as JSON), which may say more when
	// there is an error. After success the first process's Wait returns: the
	// instance goes on elsewhere. After an error it goes on here, unless the
	// error says that this is in doubt.
	Migrate(ctx context.Context, r MigrateRequest) (json.RawMessage, error)
}

// Reconfigured is a Runtime that learns what it is only in Start: a VM that was
// received.
type Reconfigured interface {
	// NewConfig returns the configuration that holds from now on, or nil.
	NewConfig() *Config
}
