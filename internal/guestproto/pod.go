package guestproto

// Pod prepares the machine for several containers in place of Run's one: it has
// the network, the name and one shared directory, and runs nothing until Create.
// It ends by Shutdown alone.
type Pod struct {
	// Share is the tag of the shared directory in which the containers' roots are,
	// each under a name of its own.
	Share    string            `json:"share"`
	Hostname string            `json:"hostname,omitempty"`
	Network  *Network          `json:"network,omitempty"`
	Sysctl   map[string]string `json:"sysctl,omitempty"`
	// Clock and Entropy are as in Run.
	Clock   int64  `json:"clock,omitempty"`
	Entropy []byte `json:"entropy,omitempty"`
}

// Container is one of a pod: a root, a group with limits, a mount and a PID
// namespace of its own. Network, hostname and IPC are the pod's.
type Container struct {
	// ID names the container in later messages, and its root in the pod's
	// share. It is chosen by the host, fits CheckID and is never used again.
	ID string `json:"id"`
	// ReadOnly shows the root read-only.
	ReadOnly bool `json:"readonly,omitempty"`
	// MaskedPaths and ReadonlyPaths are as in Run.
	MaskedPaths   []string `json:"masked_paths,omitempty"`
	ReadonlyPaths []string `json:"readonly_paths,omitempty"`
	// Sysctl are set for the whole pod.
	Sysctl map[string]string `json:"sysctl,omitempty"`
	Limits Limits            `json:"limits,omitzero"`
	// SharePIDs leaves the container in the machine's PID namespace, where the
	// pod's containers that do so see each other.
	SharePIDs bool    `json:"share_pids,omitempty"`
	Process   Process `json:"process"`
}

// Limits bound a container; 0: no bound.
type Limits struct {
	PIDs        int64  `json:"pids,omitempty"`
	MemoryBytes uint64 `json:"memory_bytes,omitempty"`
	// CPUQuotaUs of each CPUPeriodUs of processor time, in microseconds.
	CPUQuotaUs  uint64 `json:"cpu_quota_us,omitempty"`
	CPUPeriodUs uint64 `json:"cpu_period_us,omitempty"`
}

// Remove kills what is left of a container and forgets it. The share's directory
// is not used any more when it is answered, unless Create is still under way: then
// that fails, when it gets to the first process.
type Remove struct {
	ID string `json:"id"`
}
