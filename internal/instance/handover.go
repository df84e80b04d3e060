package instance

import (
	"encoding/json"
	"fmt"
	"os"
)

// HandoverEnv is the environment variable that carries a Handover. An owner
// process is started with it and its state directory as last argument.
const HandoverEnv = "HVCTL_HANDOVER"

// MountsEnv is the environment variable with the mount namespace of who started an
// owner with one of its own, as /proc/self/ns/mnt names it.
const MountsEnv = "HVCTL_STARTER_MOUNTS"

// LogLevelEnv is the environment variable with the level an owner logs from,
// in slog's words.
const LogLevelEnv = "HVCTL_LOG_LEVEL"

// Handover names the descriptors an owner inherits; zero means none.
type Handover struct {
	Ready  int `json:"ready,omitempty"`  // write end of a pipe for one Ready; by custom 3
	Lock   int `json:"lock,omitempty"`   // the instance's lock, already held
	Attach int `json:"attach,omitempty"` // a stream socket: the first attached client
	// StdinOnce closes the process's standard input when that first client
	// goes away without detaching.
	StdinOnce bool `json:"stdinOnce,omitempty"`
	// Link is to the owner whose running instance this one takes over; lock and
	// control socket come over it.
	Link int `json:"link,omitempty"`
}

// Encode is the environment entry for h.
func (h Handover) Encode() string {
	b, _ := json.Marshal(h) // a struct of integers
	return HandoverEnv + "=" + string(b)
}

// ReadHandover takes the owner's handover from the environment and removes
// it there, so that no child inherits the numbers.
func ReadHandover() (Handover, error) {
	var h Handover
	s, ok := os.LookupEnv(HandoverEnv)
	if !ok {
		return h, nil
	}
	_ = os.Unsetenv(HandoverEnv)
	if err := json.Unmarshal([]byte(s), &h); err != nil {
		return h, fmt.Errorf("%s: %w", HandoverEnv, err)
	}
	return h, nil
}

// Ready is the one line an owner writes to Handover.Ready before it closes it: the
// first process runs, or why it does not. End of file without it means that
// the owner died.
type Ready struct {
	PID   int    `json:"pid,omitempty"` // the owner's
	Error string `json:"error,omitempty"`
	Code  int    `json:"code,omitempty"` // exit code that goes with Error
}
