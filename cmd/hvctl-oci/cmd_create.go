package main

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/hvctl/hvctl/container"
	"golang.org/x/sys/unix"
)

// createFlags are those that create and run have in common.
type createFlags struct {
	opts        container.CreateOptions
	preserveFDs int
}

func (f *createFlags) add(s *flagSet) {
	f.opts.Bundle = "."
	s.text(&f.opts.Bundle, "bundle", "b", "folder with config.json (the current one)")
	s.text(&f.opts.ConsoleSocket, "console-socket", "", "socket that receives the terminal")
	s.text(&f.opts.PIDFDSocket, "pidfd-socket", "", "socket that receives a pidfd of the first process")
	s.text(&f.opts.PIDFile, "pid-file", "", "file to write the first process's ID to")
	s.onOff(&f.opts.NoPivot, "no-pivot", "", "move the root instead of pivot_root, for an initial RAM disk")
	s.onOff(&f.opts.NoNewKeyring, "no-new-keyring", "", "leave the container in the session keyring it comes from")
	s.number(&f.preserveFDs, "preserve-fds", "give the container this many descriptors after the standard streams")
}

// options are the flags with what they stand for.
func (f *createFlags) options(id string) (container.CreateOptions, error) {
	f.opts.ID = id
	var err error
	f.opts.ExtraFiles, err = inherited(f.preserveFDs)
	return f.opts, err
}

// inherited are n descriptors after the standard streams. Ours are
// close-on-exec, and so cannot be mistaken for those that the caller left.
func inherited(n int) ([]*os.File, error) {
	const most = 1 << 10
	if n < 0 || n > most {
		return nil, fmt.Errorf("--preserve-fds: %d is not within 0 to %d", n, most)
	}
	var out []*os.File
	for i := range n {
		fd := 3 + i
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			return nil, fmt.Errorf("--preserve-fds %d: descriptor %d is not open", n, fd)
		}
		out = append(out, os.NewFile(uintptr(fd), "fd"+strconv.Itoa(fd)))
	}
	return out, nil
}

// prepare is what create and run have to do before: undo takes back what was done
// for a VM, if the container is not made after all.
func (a *app) prepare(f *createFlags, id string) (r *container.Runtime, o container.CreateOptions, undo func(), err error) {
	if r, err = a.maker(); err != nil {
		return nil, o, nil, err
	}
	if o, err = f.options(id); err != nil {
		return nil, o, nil, err
	}
	undo = func() {}
	if a.vm {
		undo, err = a.asVM(r, &o)
	}
	return r, o, undo, err
}

func cmdCreate(a *app) (func([]string) (int, error), flagSet) {
	var f createFlags
	var s flagSet
	f.add(&s)
	return func(args []string) (int, error) {
		r, o, undo, err := a.prepare(&f, args[0])
		if err != nil {
			return 1, err
		}
		if _, err = r.Create(context.Background(), o); err != nil {
			undo()
		}
		return 0, err
	}, s
}
