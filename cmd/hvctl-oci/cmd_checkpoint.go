package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/criu"
)

// errNoVM is said of VMs, whose memory CRIU does not see.
var errNoVM = errors.New("checkpoint and restore are for containers; a VM that hvctl runs has `hvctl snapshot`")

// noCRIU says why this host cannot checkpoint; nil: it can.
func noCRIU(a *app) error {
	if a.vm {
		return errNoVM
	}
	d, err := driver()
	if err != nil {
		return err
	}
	return d.Check(context.Background())
}

// saver is the library, with CRIU.
func (a *app) saver() (*container.Runtime, error) {
	if a.vm {
		return nil, errNoVM
	}
	d, err := driver()
	if err != nil {
		return nil, err
	}
	r, err := a.maker()
	if err == nil {
		r.CRIU = d
	}
	return r, err
}

// criuFlags are those that checkpoint and restore have in common.
type criuFlags struct {
	container.CRIUOptions
	emptyNS, cgroups string
	lazy             bool
}

func (f *criuFlags) add(s *flagSet) {
	f.Images = "checkpoint"
	s.text(&f.Images, "image-path", "", "folder of the images (checkpoint)")
	s.text(&f.Work, "work-path", "", "folder of CRIU's log (the images')")
	s.onOff(&f.TCPEstablished, "tcp-established", "", "with TCP connections that are open")
	s.onOff(&f.ExternalUnix, "ext-unix-sk", "", "with connections to unix sockets outside")
	s.onOff(&f.ShellJob, "shell-job", "", "with a terminal from outside")
	s.onOff(&f.FileLocks, "file-locks", "", "with locks on files")
	s.onOff(&f.AutoDedup, "auto-dedup", "", "drop from earlier images what later ones have")
	s.text(&f.cgroups, "manage-cgroups-mode", "", "soft, full, strict or ignore (soft)")
	s.text(&f.emptyNS, "empty-ns", "", "network: leave out what the network namespace has")
	s.onOff(&f.lazy, "lazy-pages", "", "not supported")
}

// options are the flags with what they stand for.
func (f *criuFlags) options() (container.CRIUOptions, error) {
	switch {
	case f.lazy:
		return f.CRIUOptions, errors.New("--lazy-pages: memory that comes later is not supported; --pre-dump shortens the time that the container stands still")
	case f.emptyNS != "" && f.emptyNS != "network":
		return f.CRIUOptions, fmt.Errorf("--empty-ns: %q: only the network's can be left out", f.emptyNS)
	}
	f.ManageCgroups = criu.Mode(f.cgroups)
	f.EmptyNetwork = f.emptyNS != ""
	return f.CRIUOptions, nil
}

func cmdCheckpoint(a *app) (func([]string) (int, error), flagSet) {
	var f criuFlags
	var o container.CheckpointOptions
	var pages string
	var status int
	var s flagSet
	f.add(&s)
	s.text(&o.Parent, "parent-path", "", "folder of an earlier --pre-dump, relative to --image-path")
	s.onOff(&o.PreDump, "pre-dump", "", "save memory only, and leave the container running")
	s.onOff(&o.LeaveRunning, "leave-running", "", "leave the container running")
	s.onOff(&o.TCPSkipInFlight, "tcp-skip-in-flight", "", "without connections that are being made")
	s.onOff(&o.LinkRemap, "link-remap", "", "with files that are deleted and open")
	s.text(&pages, "page-server", "", "not supported")
	s.number(&status, "status-fd", "not supported")
	return func(args []string) (int, error) {
		r, err := a.saver()
		if err != nil {
			return 1, err
		}
		if o.CRIUOptions, err = f.options(); err != nil {
			return 1, err
		}
		if pages != "" || status != 0 {
			return 1, errors.New("--page-server, --status-fd: pages are written to --image-path only")
		}
		if err := r.Checkpoint(context.Background(), args[0], o); err != nil {
			return 1, err
		}
		if o.PreDump || o.LeaveRunning {
			return 0, nil
		}
		return 0, r.Delete(context.Background(), args[0], true)
	}, s
}

func cmdRestore(a *app) (func([]string) (int, error), flagSet) {
	var c createFlags
	var f criuFlags
	var o container.RestoreOptions
	var detach bool
	var s flagSet
	c.add(&s)
	f.add(&s)
	s.onOff(&detach, "detach", "d", "return when the container runs")
	s.text(&o.LSMProfile, "lsm-profile", "", "TYPE:NAME of the security module's profile to use instead")
	s.text(&o.LSMMountContext, "lsm-mount-context", "", "SELinux label of mounts to use instead")
	s.ignored("no-subreaper", "accepted for runc's sake", true)
	return func(args []string) (int, error) {
		r, err := a.saver()
		if err != nil {
			return 1, err
		}
		if o.CreateOptions, err = c.options(args[0]); err != nil {
			return 1, err
		}
		if o.CRIUOptions, err = f.options(); err != nil {
			return 1, err
		}
		start := func() (*container.Proc, error) { return r.Restore(context.Background(), o) }
		if detach {
			_, err := start()
			return 0, err
		}
		return foreground(r, &o.CreateOptions, false, start)
	}, s
}
