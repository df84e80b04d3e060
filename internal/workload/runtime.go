package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

var (
	// ErrNotFound means no instance has that name or ID.
	ErrNotFound = errors.New("no such instance")
	// ErrNameInUse means a living instance has that name already.
	ErrNameInUse = errors.New("name is in use")
	// ErrNotRunning means the instance is not running (it was never started,
	// has ended, or its owner died).
	ErrNotRunning = errors.New("instance is not running")
	// ErrUnsupported means the backend cannot do that; the message says why.
	ErrUnsupported = errors.New("not supported by this backend")
)

// Status is where an instance is in its life.
type Status string

// The life of an instance: created, running (and paused in between), then
// exited; dead when its owner ended without recording an exit.
const (
	Created Status = "created"
	Running Status = "running"
	Paused  Status = "paused"
	Exited  Status = "exited"
	Dead    Status = "dead"
)

// Exit is how a process ended.
type Exit struct {
	Code int       `json:"code"`            // 128+signal when a signal ended it
	OOM  bool      `json:"oom,omitempty"`   // ended for lack of memory
	Err  string    `json:"error,omitempty"` // why it never ran or was lost; Code is then 125 to 127
	At   time.Time `json:"at"`
}

// Stdio connects a process. A nil reader is end of file, a nil writer
// discards. With a terminal, Out carries everything and Err is unused.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Process is one running process of an instance, the first one or an exec.
type Process interface {
	// Wait returns when the process has ended and all its output was written.
	Wait(ctx context.Context) (Exit, error)
	// Signal sends sig to the process.
	Signal(ctx context.Context, sig unix.Signal) error
	// Resize sets the terminal's size; an error when there is no terminal.
	Resize(ctx context.Context, columns, rows uint16) error
}

// Runtime is the owner's side of one instance. Start is called once, all
// else after it. Methods may be called concurrently. A context bounds the
// call it is given to, not the life of what the call starts.
type Runtime interface {
	// Start runs the first process. When it returns nil the process exists.
	Start(ctx context.Context, io Stdio) (Process, error)
	// Exec runs another process in the instance.
	Exec(ctx context.Context, p *specs.Process, io Stdio) (Process, error)
	// Shutdown asks the workload to end in the gentlest way the backend has
	// beyond a signal to the first process (VM: the power button).
	Shutdown(ctx context.Context) error
	// Kill ends everything at once; the first process's Wait then returns.
	Kill(ctx context.Context) error
	// Stats reports what the instance uses now.
	Stats(ctx context.Context) (Stats, error)
	// Close frees what the instance holds (taps, cgroups, mounts, sockets).
	// It is called exactly once, after the first process ended or Start
	// failed. Processes that Exec started have ended, too, when it returns.
	Close() error
}

// Pauser is a Runtime that can stop and continue all its processes.
type Pauser interface {
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
}

// Suspender is a Pauser whose writable layer cannot be packed while it is paused. Suspend
// stops the workload's processes, and nothing else, and writes out what they have
// written; Pause may follow, and Resume undoes both.
type Suspender interface {
	Pauser
	Suspend(ctx context.Context) error
}

// Copy moves files between the host and a running instance (hvctl cp).
type Copy struct {
	// Path is where to in the instance, or what of it.
	Path string `json:"path"`
	// In copies into the instance: Stdio.In is a tar stream. Otherwise
	// Stdio.Out gets one.
	In bool `json:"in,omitempty"`
	// Keep keeps owners and special modes of what is copied in.
	Keep bool `json:"keep,omitempty"`
	// Directory demands that Path is a directory that exists.
	Directory bool `json:"directory,omitempty"`
	// Follow follows a symbolic link at the end of Path, of what is copied out.
	Follow bool `json:"follow,omitempty"`
	// Layer copies the writable layer out, as package upper has it, and nothing else;
	// Path means nothing. It may be asked for while the instance is paused.
	Layer bool `json:"layer,omitempty"`
}

// Copier is a Runtime that copies files by the rules of package archive. The
// Process that Copy returns ends with 0, or with another code after the reason
// was written to Stdio.Err.
type Copier interface {
	Copy(ctx context.Context, c Copy, io Stdio) (Process, error)
}

// Task is one process of an instance, as hvctl top shows it. Its number is the
// one it has in the instance.
type Task struct {
	PID            int       `json:"pid"`
	PPID           int       `json:"ppid"` // 0: its parent is not in the instance
	UID            uint32    `json:"uid"`
	State          string    `json:"state"` // R, S, D, Z, T, ...
	Threads        int       `json:"threads"`
	CPUNanoseconds uint64    `json:"cpuNanoseconds"`
	MemoryBytes    uint64    `json:"memoryBytes"` // resident
	Started        time.Time `json:"started"`
	Command        string    `json:"command"` // the workload's own choice of words
}

// Lister is a Runtime that knows its processes.
type Lister interface {
	Tasks(ctx context.Context) ([]Task, error)
}

// Update is what hvctl update changes; nil stays as it is.
type Update struct {
	CPUs        *float64 `json:"cpus,omitempty"`
	CPUWeight   *uint64  `json:"cpuWeight,omitempty"`
	MemoryBytes *uint64  `json:"memoryBytes,omitempty"`
	PIDs        *int64   `json:"pids,omitempty"`
	// BlockIO has bounds as Resources does. Those of other devices stay; a rate of
	// 0 lifts one.
	BlockIO *specs.LinuxBlockIO `json:"blockIO,omitempty"`
	// Disk changes one disk of a VM, and comes alone.
	Disk *DiskUpdate `json:"disk,omitempty"`
	// BalloonBytes is what a VM's balloon is to take from the guest, and comes alone.
	BalloonBytes *uint64 `json:"balloonBytes,omitempty"`
	// VCPUs is how many processors a VM is to have, and time for as many; it comes
	// alone.
	VCPUs *int `json:"vcpus,omitempty"`
	// Link plugs the instance's network cable in or pulls it, and comes alone.
	Link *LinkState `json:"link,omitempty"`
	// Step is for limits of a cgroup that the owner may not change itself, since it has
	// a user of its own: then whoever asks does, and asks twice.
	Step UpdateStep `json:"step,omitempty"`
}

// UpdateStep is a part of an update.
type UpdateStep string

// The steps of an update whose cgroup is the caller's to change; "" is all of it.
const (
	UpdateAsk  UpdateStep = "ask"  // whether it may be; what is not the cgroup's changes
	UpdateDone UpdateStep = "done" // the cgroup was changed: that is recorded
)

// LinkState is that of an instance's network interface.
type LinkState string

// The states of a link.
const (
	LinkUp   LinkState = "up"
	LinkDown LinkState = "down"
)

// LinkUpdater is a Runtime whose network cable can be pulled while it runs.
type LinkUpdater interface {
	UpdateLink(ctx context.Context, s LinkState) error
}

// DiskUpdate changes a disk; nil stays as it is.
type DiskUpdate struct {
	Serial string `json:"serial"` // by which the guest knows it: disk0, ... if it was given none
	// SizeBytes is its new size, not less than before; 0 means that of the file or
	// block device as it is by now.
	SizeBytes *uint64 `json:"sizeBytes,omitempty"`
	IOPS      *uint64 `json:"iops,omitempty"` // 0: no limit
	BPS       *uint64 `json:"bps,omitempty"`  // 0: no limit
}

// DiskUpdater is a Runtime whose disks can be changed while it runs.
type DiskUpdater interface {
	UpdateDisk(ctx context.Context, u DiskUpdate) error
}

// BalloonUpdater is a Runtime whose memory can be taken while it runs.
type BalloonUpdater interface {
	// UpdateBalloon asks the guest to give up bytes of its memory, in all; it
	// returns before that has.
	UpdateBalloon(ctx context.Context, bytes uint64) error
}

// VCPUUpdater is a Runtime whose guest's processors can come and go while it runs.
type VCPUUpdater interface {
	// UpdateVCPUs gives the guest n processors, and returns when it has taken them, or
	// given back what it has more.
	UpdateVCPUs(ctx context.Context, n int) error
}

// MemoryUpdater is a Runtime whose guest is given memory and gives it back while it
// runs. Update.MemoryBytes comes alone there.
type MemoryUpdater interface {
	// UpdateMemory has the guest have bytes of memory in all, and returns when it does,
	// or has come no nearer for PlugTimeout; the error says then what it has.
	UpdateMemory(ctx context.Context, bytes uint64) error
}

// Apply is r with u's changes.
func (u Update) Apply(r Resources) Resources {
	if u.CPUs != nil {
		r.CPUs = *u.CPUs
	}
	if u.VCPUs != nil {
		r.CPUs = float64(*u.VCPUs)
	}
	if u.CPUWeight != nil {
		r.CPUWeight = *u.CPUWeight
	}
	if u.MemoryBytes != nil {
		r.MemoryBytes = *u.MemoryBytes
	}
	if u.PIDs != nil {
		r.PIDs = *u.PIDs
	}
	if u.BlockIO != nil {
		r.BlockIO = throttled(r.BlockIO, u.BlockIO)
	}
	return r
}

// Check refuses values that no backend has.
func (u Update) Check() error {
	switch {
	case u == Update{Step: u.Step}:
		return errors.New("no limit given")
	case u.Disk != nil && u != Update{Disk: u.Disk}:
		return errors.New("a disk and other limits at once: change one after the other")
	case u.Disk != nil:
		return u.Disk.check()
	case u.BalloonBytes != nil && u != Update{BalloonBytes: u.BalloonBytes}:
		return errors.New("a balloon and other limits at once: change one after the other")
	case u.VCPUs != nil && u != Update{VCPUs: u.VCPUs}:
		return errors.New("a number of processors and other limits at once: change one after the other")
	case u.VCPUs != nil && (*u.VCPUs < 1 || *u.VCPUs > 4096):
		return fmt.Errorf("%d processors: want a number above 0", *u.VCPUs)
	case u.Link != nil && u != Update{Link: u.Link}:
		return errors.New("a link and limits at once: change one after the other")
	case u.Link != nil && *u.Link != LinkUp && *u.Link != LinkDown:
		return fmt.Errorf("a link that is %q: want up or down", *u.Link)
	case u.Step != "" && u.Step != UpdateAsk && u.Step != UpdateDone:
		return fmt.Errorf("step %q: want %s or %s", u.Step, UpdateAsk, UpdateDone)
	case u.CPUs != nil && !(*u.CPUs > 0 && *u.CPUs <= 4096):
		return fmt.Errorf("%v processors: want a number above 0", *u.CPUs)
	case u.CPUWeight != nil && (*u.CPUWeight < 1 || *u.CPUWeight > 10000):
		return fmt.Errorf("a weight of %d: want 1 to 10000", *u.CPUWeight)
	case u.MemoryBytes != nil && *u.MemoryBytes == 0:
		return errors.New("no memory: want more than nothing")
	case u.PIDs != nil && *u.PIDs < 1:
		return fmt.Errorf("%d processes: want a number above 0", *u.PIDs)
	}
	return nil
}

// Updater is a Runtime that changes its limits while it runs, all of u or
// nothing.
type Updater interface {
	Update(ctx context.Context, u Update) error
}

func (d DiskUpdate) check() error {
	switch {
	case d.Serial == "":
		return errors.New("no disk named")
	case d.SizeBytes == nil && d.IOPS == nil && d.BPS == nil:
		return fmt.Errorf("disk %s: want a size, requests or bytes a second", d.Serial)
	}
	return nil
}

// OwnerUpdater is a Runtime whose limits are those of its owner's cgroup (see
// OwnerLimiter), which the supervisor changes.
type OwnerUpdater interface {
	// CheckUpdate refuses what neither the group nor the instance can give.
	CheckUpdate(u Update) error
	// UpdateInside changes what the instance itself keeps to, if there is any such
	// thing in u. It is called before the group changes.
	UpdateInside(ctx context.Context, u Update) error
}

// Inspector is a Runtime with more to say in `inspect`: addresses, devices,
// process IDs, a boot timeline. Keys are stable and documented.
type Inspector interface {
	Inspect() map[string]any
}

// NetworkReporter is a Runtime that has an address of its own. It is asked
// once, after Start.
type NetworkReporter interface {
	NetworkStatus() (ip string, published []Port)
}

// Stats is what an instance uses, with the same meaning on both backends.
// The owner's own cost (VMM or monitor) is part of it.
type Stats struct {
	At               time.Time         `json:"at"`
	CPUNanoseconds   uint64            `json:"cpuNanoseconds"`   // whole instance, as the host charges it
	MemoryBytes      uint64            `json:"memoryBytes"`      // as the host charges it
	MemoryLimitBytes uint64            `json:"memoryLimitBytes"` // 0: none
	PIDs             uint64            `json:"pids"`             // inside the instance
	NetRxBytes       uint64            `json:"netRxBytes"`
	NetTxBytes       uint64            `json:"netTxBytes"`
	BlockReadBytes   uint64            `json:"blockReadBytes"`
	BlockWriteBytes  uint64            `json:"blockWriteBytes"`
	Counters         map[string]uint64 `json:"counters,omitempty"` // backend's own, e.g. exits by reason
	// Histograms are the backend's own, of how long requests took.
	Histograms map[string]Histogram `json:"histograms,omitempty"`
	Cgroup     *CgroupStats         `json:"cgroup,omitempty"` // nil: it is in none of its own
}

// Histogram counts durations: Counts[i] took less than 2^i microseconds and not
// less than half of that; the last one has the rest.
type Histogram struct {
	Counts         []uint64 `json:"counts"`
	SumNanoseconds uint64   `json:"sumNanoseconds"`
}

// CgroupStats is what the host charges an instance's cgroup with: all of its
// processes, the owner of a VM included.
type CgroupStats struct {
	Path                 string `json:"path"`
	CPUNanoseconds       uint64 `json:"cpuNanoseconds"`
	ThrottledNanoseconds uint64 `json:"throttledNanoseconds"` // kept from running by --cpus
	MemoryBytes          uint64 `json:"memoryBytes"`          // file pages that it brought in included
	MemoryPeakBytes      uint64 `json:"memoryPeakBytes"`      // 0: the kernel does not tell
	Tasks                uint64 `json:"tasks"`                // threads on the host
	OOMKills             uint64 `json:"oomKills"`
}
