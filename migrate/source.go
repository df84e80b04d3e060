package migrate

import (
	"context"
	"os"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
)

// Source is a machine that can be saved or sent. Its methods are called by one
// goroutine at a time, but for the bytes of Regions, which many read at once
// while the guest changes them.
type Source interface {
	// Regions returns the RAM in address order. It is the same for the
	// machine's whole life; the caller may read Bytes until the machine is closed
	// and may not change the slice.
	Regions() []memory.Region
	// Pause takes the vCPUs out of the guest and quiesces the devices: host I/O
	// drained, workers joined, interrupts flushed. Pausing a paused machine does
	// nothing. On an error the machine is running as before.
	Pause(ctx context.Context) error
	// Resume lets a paused machine run on; on a running one it does nothing.
	Resume(ctx context.Context) error
	// StartDirtyLog begins to record which pages change; the log is empty then.
	StartDirtyLog() error
	// StopDirtyLog ends it and forgets what was recorded. Stopping a log that
	// does not run does nothing.
	StopDirtyLog() error
	// FetchDirty overwrites bitmap with the pages of Regions()[region] that
	// changed since the last call (or since StartDirtyLog) and clears them in the
	// log: KVM's log united with what the VMM wrote. Bit n of bitmap[w] is page
	// 64*w+n of the region; len(bitmap) is DirtyWords of the region. A page that
	// is written between the call and a later read of its bytes is in the next
	// call's answer.
	FetchDirty(region int, bitmap []uint64) error
	// SaveState returns the state of everything but RAM. It is called only while
	// the machine is paused. It may dirty pages, which the next FetchDirty
	// returns.
	SaveState() ([]state.Section, error)
}

// Destination is a machine built from the same description as the source,
// paused, with RAM that reads as zeroes.
type Destination interface {
	// Regions returns the RAM as Source.Regions does; the receiver writes to it.
	Regions() []memory.Region
	// LoadState gives every part of the machine its state. The sections come
	// from outside: they are checked as input from an enemy. It is called once,
	// when the RAM is complete.
	LoadState(sections []state.Section) error
	// Resume lets the machine run. It is called only when the right to run it is
	// recorded on disk.
	Resume(ctx context.Context) error
}

// DirtyWords returns the length of the bitmap of a region, in words.
func DirtyWords(r memory.Region) int { return int((r.Size/memory.PageSize + 63) / 64) }

// The rest are abilities that a Source or a Destination may have besides,
// found by type assertion.

// SparseSource is a Source or a Destination whose RAM is a shared mapping of a
// file: holes can be skipped without touching (and thereby making) their pages,
// and new pages written without a fault for each.
type SparseSource interface {
	// MemoryFD returns the file in which Region.Offset counts, still owned by the
	// machine, or -1 when the RAM is not such a mapping.
	MemoryFD() int
}

// Throttler is a Source that can slow its guest down.
type Throttler interface {
	// Throttle takes percent (0 to 99) of the vCPUs' time away; 0 ends it.
	Throttle(percent int) error
}

// Discarder is a Destination that can give pages back to the host; they read
// as zeroes afterwards. Without it zeroes are written.
type Discarder interface {
	Discard(a memory.GPA, n uint64) error
}

// HugePager is a Destination that can put a huge page behind RAM that is about to
// be filled, and was not touched before.
type HugePager interface {
	// MakeHuge does so for the memory.HugePageSize bytes at a. An error changes
	// nothing.
	MakeHuge(a memory.GPA) error
}

// Rehearser is a Destination that can go through the motions of LoadState before
// there is a state: what that makes ready, and tells of the time that loading will
// take, is then not paid while the guest stands still.
type Rehearser interface {
	// Rehearse changes nothing and returns about how many bytes the state of such
	// a machine has.
	Rehearse() (stateBytes int, err error)
}

// Locks is a Source or Destination whose disks or other resources only one
// runner may hold.
type Locks interface {
	// Release makes what the guest wrote durable and then drops the locks. Called
	// only while the machine is paused, before the right to run is handed over.
	Release(ctx context.Context) error
	// Acquire takes the locks; it is called before every Resume that follows a
	// Release, and on the destination before its first Resume.
	Acquire(ctx context.Context) error
}

// Volume is a disk that goes along with the machine.
type Volume struct {
	Name string
	Size uint64 // bytes
	// File holds the content; reads and writes of it see those of the machine. It
	// stays owned by the machine.
	File *os.File
}

// VolumeSource is a Source with disks that go along. They travel in the same
// rounds as the RAM, so that what changed last is sent while the guest stands
// still.
type VolumeSource interface {
	// Volumes returns the disks; it is the same for the machine's whole life.
	Volumes() []Volume
	// FetchDirtyVolume is FetchDirty for Volumes()[volume], in pages of
	// memory.PageSize, the last of which may be short. StartDirtyLog and
	// StopDirtyLog concern these logs too. A page is in the log only after the
	// write to File is done.
	FetchDirtyVolume(volume int, bitmap []uint64) error
}

// VolumeDestination is a Destination with disks of the same names and sizes, in
// the same order, whose files read as zeroes. They are synced before the machine
// can run.
type VolumeDestination interface {
	Volumes() []Volume
}

// Announcer is a Destination that tells the network where the guest is now.
// It is called after Resume; an error is reported and changes nothing.
type Announcer interface {
	Announce(ctx context.Context) error
}
