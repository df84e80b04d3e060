package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/archive"
	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/guestproto"
)

// copy serves Copy: a process without a program, which this one plays.
func (m *manager) copy(c guestproto.Copy) (guestproto.Started, error) {
	var none guestproto.Started
	m.mu.Lock()
	defer m.mu.Unlock()
	ct, err := m.living("")
	if err != nil {
		return none, err
	}
	// The tree as the workload has it: with its /proc and its mounts.
	tree, err := archive.OpenRoot("/proc/" + strconv.Itoa(ct.first.pid) + "/root")
	if err != nil {
		return none, err
	}
	started, err := m.play(c.ID, ct, c.Streams, func(ends [3]*os.File) error {
		defer tree.Close()
		return transfer(c, tree, ends)
	})
	if err != nil {
		tree.Close()
	}
	return started, err
}

// play starts a process of ct's without a program: do is what it does, with its
// standard streams. Preconditions: m.mu is held.
func (m *manager) play(id string, ct *container, streams guestproto.Streams, do func([3]*os.File) error) (guestproto.Started, error) {
	var none guestproto.Started
	if err := guestproto.CheckID(id); err != nil {
		return none, err
	}
	if m.procs[id] != nil {
		return none, stateErr("process id %s is taken", id)
	}
	io, err := newStdio(&guestproto.Process{ID: id, Streams: streams}, etcfiles.Creds{}, "", m.dial, m.host.online)
	if err != nil {
		return none, err
	}
	ends := io.child // ours to close, when it is done
	io.child = [3]*os.File{}
	pr := &process{id: id, in: ct, io: io, gone: true} // no signals
	m.procs[id] = pr
	m.idle.Add(1)
	ct.procs.Add(1)
	io.run()
	go func() {
		e := guestproto.Exit{ID: id}
		if err := do(ends); err != nil {
			fmt.Fprintln(ends[2], err)
			e.Code = 1
		}
		for _, f := range ends {
			f.Close()
		}
		m.finish(pr, e)
	}()
	return guestproto.Started{PID: os.Getpid()}, nil
}

func transfer(c guestproto.Copy, tree *archive.Root, ends [3]*os.File) error {
	if c.In {
		return archive.Unpack(ends[0], tree, c.Path, archive.Options{Keep: c.Keep, Directory: c.Directory})
	}
	return read(archive.Pack(ends[1], tree, c.Path, c.Follow))
}

// read puts into words that nobody reads what is sent.
func read(err error) error {
	if errors.Is(err, unix.EPIPE) {
		return errors.New("nobody reads it any more")
	}
	return err
}
