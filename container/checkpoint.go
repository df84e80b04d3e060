package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/internal/criu"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CRIUOptions are those that checkpoint and restore have in common. What is
// true of the connections and locks when a container is saved has to be said
// when it is restored, too.
type CRIUOptions struct {
	// Images is the folder of the files that make up the container. It is made
	// if it is missing.
	Images string
	// Work is where CRIU writes its log; "": Images.
	Work string
	// TCPEstablished saves connections that are open.
	TCPEstablished bool
	// ExternalUnix allows connections to sockets outside of the container.
	ExternalUnix bool
	// FileLocks saves locks on files.
	FileLocks bool
	// ShellJob allows a terminal that comes from outside.
	ShellJob bool
	// AutoDedup drops from earlier images what later ones have.
	AutoDedup bool
	// EmptyNetwork leaves out what the network namespace has.
	EmptyNetwork  bool
	ManageCgroups criu.Mode
}

// CheckpointOptions say how a container is saved.
type CheckpointOptions struct {
	CRIUOptions
	// Parent is the folder of an earlier PreDump, relative to Images; "": none.
	Parent string
	// PreDump saves memory only and leaves the container running.
	PreDump bool
	// LeaveRunning leaves it running after all of it was saved.
	LeaveRunning bool
	// TCPSkipInFlight leaves out connections that are not established yet.
	TCPSkipInFlight bool
	// LinkRemap allows files that have been deleted and are open.
	LinkRemap bool
}

// Files in an images folder beside CRIU's.
const (
	descriptorsFile = "descriptors.json" // what the standard streams were, as runc has it
	dumpLog         = "dump.log"
	restoreLog      = "restore.log"
)

// externalNetwork is the name by which a network namespace that is not the
// container's own is given back.
const externalNetwork = "extRootNetNS"

// Checkpoint saves a running container in files. Unless it is to stay it has
// ended then, and can be deleted.
//
// Errors to test for: ErrNotExist, ErrNotRunning, ErrState, criu.ErrMissing.
func (r *Runtime) Checkpoint(ctx context.Context, id string, o CheckpointOptions) error {
	d, rec, err := r.locked(id)
	if err != nil {
		return err
	}
	defer d.close()
	if err := stepCheckpoint.check(id, r.status(d, rec)); err != nil {
		return err
	}
	spec, err := d.config()
	if err != nil {
		return err
	}
	s := &saving{r: r, rec: rec, spec: spec, o: &o}
	if err := s.save(ctx); err != nil {
		return fmt.Errorf("cannot checkpoint container %q: %w", id, err)
	}
	return nil
}

// open makes and opens the folders and begins CRIU's options. The caller closes
// the folders.
func (o *CRIUOptions) open(log string) (*criu.Job, error) {
	if o.Images == "" {
		return nil, errors.New("--image-path: a folder for the images is needed")
	}
	if !slices.Contains([]criu.Mode{"", criu.Soft, criu.Full, criu.Strict, criu.Ignore}, o.ManageCgroups) {
		return nil, fmt.Errorf("--manage-cgroups-mode: %q is none of soft, full, strict, ignore", o.ManageCgroups)
	}
	if o.Work == "" {
		o.Work = o.Images
	}
	j := &criu.Job{Options: criu.Options{
		LogFile: log, TCPEstablished: o.TCPEstablished, ExternalUnix: o.ExternalUnix, FileLocks: o.FileLocks,
		ShellJob: o.ShellJob, AutoDedup: o.AutoDedup, ManageCgroups: o.ManageCgroups,
	}}
	if o.EmptyNetwork {
		j.EmptyNS = unix.CLONE_NEWNET
	}
	for _, dir := range []struct {
		name string
		file **os.File
	}{{o.Images, &j.ImagesDir}, {o.Work, &j.WorkDir}} {
		err := os.Mkdir(dir.name, 0o700)
		if err == nil || errors.Is(err, os.ErrExist) {
			*dir.file, err = os.Open(dir.name)
		}
		if err != nil {
			j.ImagesDir.Close() // no harm where there is none
			return nil, fmt.Errorf("--image-path, --work-path: %w", err)
		}
	}
	return j, nil
}

// explain adds what CRIU's log says.
func (o *CRIUOptions) explain(log string, err error) error {
	const longest = 4 << 20
	name := filepath.Join(o.Work, log)
	f, oerr := os.Open(name)
	if oerr != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, longest)
	n, _ := f.Read(b)
	if why := criu.Complaint(b[:n]); why != "" {
		return fmt.Errorf("%w: %s (%s)", err, why, name)
	}
	return fmt.Errorf("%w (%s)", err, name)
}

// saving is a container while CRIU is told what it is.
type saving struct {
	r      *Runtime
	rec    *record
	spec   *specs.Spec
	o      *CheckpointOptions
	job    *criu.Job
	mounts []mounted // that the container's first process sees
}

func (s *saving) save(ctx context.Context) (err error) {
	if err := s.r.criu(ctx); err != nil {
		return err
	}
	if s.o.PreDump || s.o.Parent != "" {
		if err := s.r.CRIU.CanTrack(ctx); err != nil {
			return err
		}
	}
	if s.job, err = s.o.open(dumpLog); err != nil {
		return err
	}
	defer closeAll([]*os.File{s.job.ImagesDir, s.job.WorkDir})
	if err := s.describe(); err != nil {
		return err
	}
	if err := s.describeStdio(s.job.ImagesDir); err != nil {
		return err
	}
	if err := s.r.CRIU.Dump(ctx, s.job, s.o.PreDump); err != nil {
		return s.o.explain(dumpLog, err)
	}
	return nil
}

// criu says why containers cannot be saved here.
func (r *Runtime) criu(ctx context.Context) error {
	if r.CRIU == nil {
		return fmt.Errorf("%w: this program does not drive it", criu.ErrMissing)
	}
	return r.CRIU.Check(ctx)
}

// describe says where the processes are, and what of their surroundings is not
// theirs.
func (s *saving) describe() error {
	o := &s.job.Options
	o.PID, o.Root, o.ParentImage = s.rec.PID, s.rec.Rootfs, s.o.Parent
	o.LeaveRunning, o.TCPSkipInFlight, o.LinkRemap = s.o.LeaveRunning || s.o.PreDump, s.o.TCPSkipInFlight, s.o.LinkRemap
	o.TrackMemory = s.o.PreDump || s.o.Parent != ""
	g, err := s.r.cgroup(s.rec)
	if err != nil {
		return err
	}
	if g != nil {
		o.FreezeCgroup = freezer(g)
	}
	p, err := buildPlan(s.spec, s.rec)
	if err == nil {
		err = cgroupMounts(p, g)
	}
	if err != nil {
		return err
	}
	for _, m := range externalMounts(p) {
		o.Mounts = append(o.Mounts, criu.Pair{Key: m.Key, Value: m.Key})
	}
	if s.mounts, err = mountsOf(s.rec.PID); err != nil {
		return err
	}
	for _, name := range p.Masked { // those that are files: folders are covered by a file system of their own
		if slices.ContainsFunc(s.mounts, func(m mounted) bool { return m.at == name && m.root != "/" }) {
			o.Mounts = append(o.Mounts, criu.Pair{Key: name, Value: nullDevice})
		}
	}
	return s.namespaces()
}

const nullDevice = "/dev/null"

// freezer is the cgroup by which CRIU stops the processes, all at a time; "":
// it stops one after the other.
func freezer(g Cgroup) string {
	paths := g.Paths()
	if dir := paths["freezer"]; dir != "" || len(paths) > 1 {
		return dir
	}
	return paths[""]
}

// externalMounts are those whose source is outside, which is the value.
func externalMounts(p *plan.Plan) (out []plan.Pair) {
	for i := range p.Mounts {
		m := &p.Mounts[i]
		switch {
		case m.Kind == plan.Bind:
			out = append(out, plan.Pair{Key: m.Dest, Value: m.Source})
		case m.Kind == plan.Cgroup && !(len(m.Cgroups) == 1 && m.Cgroups[0].Key == ""):
			for _, g := range m.Cgroups {
				out = append(out, plan.Pair{Key: m.Dest + "/" + g.Key, Value: g.Value})
			}
		}
	}
	if p.UserNS { // whose devices are the host's
		for i := range p.Devices {
			out = append(out, plan.Pair{Key: p.Devices[i].Path, Value: p.Devices[i].Path})
		}
	}
	return out
}

// namespaces says which network is not the container's. Others that it shares
// would be saved as its own, and come back as others.
func (s *saving) namespaces() error {
	if s.spec.Linux == nil {
		return nil
	}
	for i, ns := range s.spec.Linux.Namespaces {
		if ns.Path == "" {
			continue
		}
		if ns.Type != specs.NetworkNamespace {
			return fmt.Errorf("linux.namespaces[%d]: the %s namespace is shared with others, and would be another one afterwards; only a shared network can be saved", i, ns.Type)
		}
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", s.rec.PID), &st); err != nil {
			return fmt.Errorf("the container's network namespace: %w", err)
		}
		s.job.External = append(s.job.External, fmt.Sprintf("net[%d]:%s", st.Ino, externalNetwork))
	}
	return nil
}

// describeStdio says which standard streams come from outside, and notes for
// the restore what they were.
func (s *saving) describeStdio(images *os.File) error {
	var names [3]string
	for fd := range names {
		name, outside, err := s.describeFD(fd)
		if err != nil {
			return err
		}
		if names[fd] = name; outside {
			s.job.External = append(s.job.External, name)
		}
	}
	b, err := json.Marshal(names)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(int(images.Fd()), descriptorsFile, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("--image-path: %s: %w", descriptorsFile, err)
	}
	f := os.NewFile(uintptr(fd), descriptorsFile)
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// describeFD is what CRIU calls a descriptor, and whether it is a file of no
// mount of the container's.
func (s *saving) describeFD(fd int) (name string, outside bool, err error) {
	link := fmt.Sprintf("/proc/%d/fd/%d", s.rec.PID, fd)
	if name, err = os.Readlink(link); errors.Is(err, os.ErrNotExist) {
		return "", false, nil // it has closed it
	} else if err != nil || !strings.HasPrefix(name, "/") {
		return name, false, err
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", s.rec.PID, fd))
	if err != nil {
		return "", false, err
	}
	_, rest, _ := strings.Cut(string(info), "mnt_id:")
	id, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	if slices.ContainsFunc(s.mounts, func(m mounted) bool { return m.id == id }) {
		return name, false, nil
	}
	var n uint64
	if _, err := fmt.Sscan(id, &n); err != nil {
		return "", false, fmt.Errorf("%s: its mount is not told: %w", link, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(link, &st); err != nil {
		return "", false, fmt.Errorf("%s: %w", link, err)
	}
	return fmt.Sprintf("file[%x:%x]", n, st.Ino), true, nil
}
