package criu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
)

// ErrMissing means that the host has no CRIU that works.
var ErrMissing = errors.New("no working CRIU")

// Driver is CRIU on this host.
type Driver interface {
	// Check asks whether it works on this kernel. The error wraps ErrMissing.
	Check(ctx context.Context) error
	// CanTrack asks whether the kernel tells which pages were written, which
	// saving memory ahead needs.
	CanTrack(ctx context.Context) error
	// Dump saves processes; with pre only the memory that was written, and they
	// run on.
	Dump(ctx context.Context, j *Job, pre bool) error
	// Restore makes processes. The first of them is a child of the caller.
	Restore(ctx context.Context, j *Job) (pid int, err error)
}

// Job is one thing for CRIU to do.
type Job struct {
	Options
	// Files are given to CRIU as descriptors FirstFile and up.
	Files []*os.File
	// Group is the cgroup that CRIU, and what it makes, runs in; nil: ours.
	Group *os.File
	// Notify is told of CRIU's steps ("setup-namespaces", "orphan-pts-master"),
	// with the first process's ID where there is one and the descriptor that
	// comes along, which it does not keep. Its error ends the job. nil: nobody is
	// told.
	Notify func(step string, pid int, fd *os.File) error
}

// FirstFile is the number of the first descriptor that CRIU is given.
const FirstFile = 3

// Give adds a descriptor and returns its number.
func (j *Job) Give(f *os.File) int {
	j.Files = append(j.Files, f)
	return FirstFile + len(j.Files) - 1
}

// Mode is what CRIU does with cgroups (criu(8), --manage-cgroups).
type Mode string

// Modes; the zero value is Soft.
const (
	Soft   Mode = "soft"
	Full   Mode = "full"
	Strict Mode = "strict"
	Ignore Mode = "ignore"
)

// Options are CRIU's, by the names of its RPC (criu.org/RPC).
type Options struct {
	ImagesDir, WorkDir *os.File // which CRIU opens as /proc/PID/fd/N, PID being the caller's
	LogFile            string
	PID                int
	Root               string
	ParentImage        string

	LeaveRunning, TrackMemory, AutoDedup          bool
	TCPEstablished, TCPSkipInFlight, ExternalUnix bool
	ShellJob, FileLocks, LinkRemap                bool
	EmptyNS                                       uint32
	FreezeCgroup                                  string
	ManageCgroups                                 Mode
	LSMProfile, LSMMountContext                   string
	External                                      []string
	Mounts                                        []Pair // external ones
	Inherit                                       []Inherit
}

// Pair is a name and a value.
type Pair struct{ Key, Value string }

// Inherit is a descriptor that takes the place of what was saved as Key.
type Inherit struct {
	Key string
	FD  int
}

// Complaint is the first error in what CRIU printed or logged: those that
// follow are mostly its consequences. "" is none.
func Complaint(log []byte) string {
	const longest = 300
	var first string
	for line := range bytes.Lines(log) {
		at := bytes.Index(line, []byte("Error ("))
		if at < 0 {
			continue
		}
		first = string(line[at:])
		if _, rest, ok := strings.Cut(first, "): "); ok {
			first = rest
		}
		break
	}
	first = strings.TrimSpace(first)
	return strings.ToValidUTF8(first[:min(len(first), longest)], "?")
}
