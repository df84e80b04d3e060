package result

// Fact is one thing that was seen of one instance: a line of what its program
// saw, how it ended, or a digest of its output. Facts of the same test and name
// are compared as they are.
type Fact struct {
	Test     string `json:"test"`
	Name     string `json:"name"`
	Target   string `json:"target"`
	Instance string `json:"instance,omitempty"`
	Value    string `json:"value"`
	Error    string `json:"error,omitempty"` // the test failed as a whole, and Value is nothing
}

// Control is one limit or promise: what was asked for, and what came of it.
type Control struct {
	Test     string  `json:"test"`
	Target   string  `json:"target"`
	Block    int     `json:"block"`
	Unit     string  `json:"unit"` // of the figures below
	Asked    float64 `json:"asked"`
	Measured float64 `json:"measured"`
	// Least and Most are the bounds of what keeps the promise; both 0: nothing was
	// promised, the figure is there to be looked at.
	Least float64 `json:"least,omitempty"`
	Most  float64 `json:"most,omitempty"`
	How   string  `json:"how,omitempty"` // how it ended, in words
	Error string  `json:"error,omitempty"`
}

// Promised tells whether there is anything to keep.
func (c *Control) Promised() bool { return c.Least != 0 || c.Most != 0 }

// Kept tells whether what was measured is what was asked for.
func (c *Control) Kept() bool {
	return c.Error == "" && (!c.Promised() || c.Measured >= c.Least && c.Measured <= c.Most)
}

// Crowd is what N idle instances of one target cost together, in bytes.
type Crowd struct {
	Target    string `json:"target"`
	N         int    `json:"n"`
	Available uint64 `json:"available"`     // to the host, MemAvailable of /proc/meminfo
	PSS       uint64 `json:"pss"`           // proportional set size of all their processes
	Cgroup    uint64 `json:"cgroup"`        // charged to their groups
	End       string `json:"end,omitempty"` // why there is no next one
	Error     string `json:"error,omitempty"`
}

// Move is one instance's way from one owner, or process, to another.
type Move struct {
	// Kind says what it is: they are not the same thing.
	Kind   string `json:"kind"`
	Target string `json:"target"`
	Block  int    `json:"block"` // 0 is the warm-up
	// TotalNs is from the command to the word that it is over.
	TotalNs int64 `json:"totalNs"`
	// StillNs is the longest time between two beats of the program, by its own
	// clock where it lives on, and by the host's where a new one begins.
	StillNs int64  `json:"stillNs"`
	Bytes   uint64 `json:"bytes,omitempty"` // sent, or written down
	Kept    bool   `json:"kept"`            // the program goes on from where it was
	Error   string `json:"error,omitempty"`
}

// The kinds of moves.
const (
	LiveMigration = "live migration"
	Checkpoint    = "checkpoint and restore"
	Snapshot      = "snapshot and restore"
	Restart       = "restart"
)

// Pressure is what the host did in one block, beside and for the benchmark.
type Pressure struct {
	Chapter string  `json:"chapter"`
	Block   int     `json:"block"`
	TookNs  int64   `json:"tookNs"`
	Load    float64 `json:"load"`    // average of the last minute, at the end
	StealNs int64   `json:"stealNs"` // taken by the hypervisor below, all processors
	// Share of the time in which somebody waited for it (PSI); -1: not known.
	CPU    float64 `json:"cpu"`
	Memory float64 `json:"memory"`
	IO     float64 `json:"io"`
}
