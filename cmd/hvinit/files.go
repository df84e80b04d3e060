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
	if err := guestproto.CheckID(c.ID); err != nil {
		return none, err
	}
	if m.procs[c.ID] != nil {
		return none, stateErr("process id %s is taken", c.ID)
	}
	// The tree as the workload has it: with its /proc and its mounts.
	tree, err := archive.OpenRoot("/proc/" + strconv.Itoa(ct.first.pid) + "/root")
	if err != nil {
		return none, err
	}
	io, err := newStdio(&guestproto.Process{ID: c.ID, Streams: c.Streams}, etcfiles.Creds{}, ct.root.path(), m.dial, m.host.online)
	if err != nil {
		tree.Close()
		return none, err
	}
	ends := io.child // ours to close, when the copy is done
	io.child = [3]*os.File{}
	pr := &process{id: c.ID, in: ct, io: io, gone: true} // no signals
	m.procs[c.ID] = pr
	m.idle.Add(1)
	ct.procs.Add(1)
	io.run()
	go func() {
		e := guestproto.Exit{ID: c.ID}
		if err := transfer(c, tree, ends); err != nil {
			fmt.Fprintln(ends[2], err)
			e.Code = 1
		}
		tree.Close()
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
	err := archive.Pack(ends[1], tree, c.Path, c.Follow)
	if errors.Is(err, unix.EPIPE) {
		return errors.New("nobody reads it any more")
	}
	return err
}
