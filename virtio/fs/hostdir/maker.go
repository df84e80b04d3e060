package hostdir

import (
	"fmt"
	"math"
	"runtime"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// maker is a thread of its own that adds names to directories as the client's
// user and without a umask, so that every file has its owner and mode from the
// first moment on: nothing is ever changed afterwards through a name that
// somebody on the host may have replaced.
type maker struct {
	jobs chan job
	root bool // we may act as others
}

type job struct {
	owner fuse.Owner
	run   func() error
	done  chan<- error
}

// newMaker starts the thread; close(jobs) ends it.
func newMaker(root bool) (*maker, error) {
	m := &maker{jobs: make(chan job), root: root}
	ready := make(chan error)
	go m.serve(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("a thread that makes files for the guest: %w", err)
	}
	return m, nil
}

func (m *maker) serve(ready chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with us
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		ready <- err
		return
	}
	unix.Umask(0)
	ready <- nil
	for j := range m.jobs {
		j.done <- m.one(j)
	}
}

func (m *maker) one(j job) error {
	if !m.root {
		return j.run()
	}
	if err := become(j.owner); err != nil {
		return err
	}
	err := j.run()
	if back := become(fuse.Owner{}); err == nil {
		err = back
	}
	return err
}

// do runs a job and waits for it.
func (m *maker) do(owner fuse.Owner, run func() error) error {
	done := make(chan error, 1)
	m.jobs <- job{owner, run, done}
	return <-done
}

// Capabilities that the client's kernel has already decided about: what it
// lets its user do, the host does not check again with less knowledge (it does
// not know the user's further groups).
const keptCaps = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_CHOWN

// become makes files that this thread makes belong to owner (setfsuid(2)).
// That takes capabilities away, which are then taken back (capabilities(7)).
func become(owner fuse.Owner) error {
	if owner.Uid == math.MaxUint32 || owner.Gid == math.MaxUint32 {
		return unix.EINVAL // "unchanged" to the kernel
	}
	for _, id := range []struct{ call, id uintptr }{{unix.SYS_SETFSGID, uintptr(owner.Gid)}, {unix.SYS_SETFSUID, uintptr(owner.Uid)}} {
		// Whether it worked is asked next: the call returns the ID before.
		_, _, _ = unix.RawSyscall(id.call, id.id, 0, 0)
		if now, _, _ := unix.RawSyscall(id.call, math.MaxUint32, 0, 0); now != id.id {
			return unix.EPERM
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&hdr, &caps[0]); err != nil {
		return err
	}
	want := caps[0].Effective | caps[0].Permitted&keptCaps
	if want == caps[0].Effective {
		return nil
	}
	caps[0].Effective = want
	return unix.Capset(&hdr, &caps[0])
}
