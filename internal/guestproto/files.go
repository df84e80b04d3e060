package guestproto

// Copy moves files between the host and the workload's tree, as a tar stream
// over the process streams: the input of a copy in, the output of a copy out.
// Standard error carries the reason of a failure. It is answered, attached to
// and waited for like a process, and takes no signals.
type Copy struct {
	// ID names the copy like a process.
	ID string `json:"id"`
	// Path is where to, or what.
	Path string `json:"path"`
	// In copies into the workload's tree.
	In bool `json:"in,omitempty"`
	// Keep keeps owners and special modes of a copy in.
	Keep bool `json:"keep,omitempty"`
	// Directory demands that Path is a directory that exists.
	Directory bool `json:"directory,omitempty"`
	// Follow follows a symbolic link at the end of Path, of a copy out.
	Follow  bool    `json:"follow,omitempty"`
	Streams Streams `json:"streams"`
}

// Layer moves the workload's writable layer, as package upper packs it: out over
// the output of Pack, in over the input of Fill. It is answered like Copy.
type Layer struct {
	// ID names it like a process.
	ID string `json:"id"`
	// Upper, for Fill, is where the layer is to be. Run has to name the same.
	Upper   Upper   `json:"upper,omitzero"`
	Streams Streams `json:"streams"`
}

// MaxListed bounds the processes that Table lists.
const MaxListed = 512

// maxCommand bounds the text of one of them.
const maxCommand = 256

// Table answers MethodTop.
type Table struct {
	// Total is how many processes there are; the first MaxListed are listed.
	Total     int    `json:"total"`
	Processes []Task `json:"processes"`
}

// Task is one process of the workload. Its number is the one it sees itself.
type Task struct {
	PID      int    `json:"pid"`
	PPID     int    `json:"ppid"`
	UID      uint32 `json:"uid"`
	State    string `json:"state"`
	Threads  int    `json:"threads"`
	CPUNs    int64  `json:"cpu_ns"`
	RSSBytes uint64 `json:"rss_bytes"`
	AgeNs    int64  `json:"age_ns"`
	Command  string `json:"command"`
}

// Validate checks a Table that came from the guest. What a command is called
// is the workload's to say: clean it before it is shown.
func (t Table) Validate() error {
	if t.Total < len(t.Processes) || len(t.Processes) > MaxListed {
		return invalid("table of %d processes lists %d, at most %d", t.Total, len(t.Processes), MaxListed)
	}
	for _, p := range t.Processes {
		switch {
		case p.PID < 0 || p.PPID < 0 || p.Threads < 0:
			return invalid("table: process %d of %d with %d threads", p.PID, p.PPID, p.Threads)
		case len(p.State) > 4 || !printable(p.State):
			return invalid("table: state of %d bytes", len(p.State))
		case p.CPUNs < 0 || p.AgeNs < 0 || p.RSSBytes > 1<<60:
			return invalid("table: process %d with impossible figures", p.PID)
		case len(p.Command) > maxCommand:
			return invalid("table: command of %d bytes, at most %d", len(p.Command), maxCommand)
		}
	}
	return nil
}
