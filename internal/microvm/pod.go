package microvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/virtio/fs"
)

// Pod is a VM that runs several containers, each with a root that comes as a
// descriptor (docs/adr/0015-one-vm-in-a-pod.md). It ends with Shutdown, Kill or
// Close of VM.
type Pod struct {
	*VM
	guest *guest

	mu   sync.Mutex
	made uint64 // containers so far, by which the guest knows them
	by   map[string]*Member
}

// Member is a container of a pod.
type Member struct {
	workload.Process        // the first one
	id               string // to the guest
	spec             *specs.Spec
	remove           func() error // once
	leaving          bool         // remove was called; guarded by Pod.mu
}

// PodMember describes a container. What else its configuration has is the pod's.
type PodMember struct {
	ID   string // the engine's, unique among the living
	Spec *specs.Spec
	Root *os.File // its tree, mounts included
	// Limits bound it in the guest.
	Limits guestproto.Limits
	// SharePIDs is guestproto.Container's.
	SharePIDs bool
}

// NewPod is NewInside for a pod. cfg has no process.
func NewPod(v *VM) *Pod { v.pod = true; return &Pod{VM: v, by: map[string]*Member{}} }

// Start boots the VM and prepares it for containers. On error what was made is
// kept until Close.
func (p *Pod) Start(ctx context.Context) error {
	v := p.VM
	if err := v.build(ctx, workload.Stdio{}); err != nil {
		return err
	}
	if err := v.enter(); err != nil {
		return err
	}
	g, err := v.converse()
	if err != nil {
		return err
	}
	p.guest = g
	ctx, over := v.untilEnded(ctx, g)
	defer over(nil)
	if _, err := v.ready(ctx, g); err != nil {
		return v.explain(g, err)
	}
	spec := v.cfg.Spec
	pod := guestproto.Pod{Share: rootSerial, Hostname: spec.Hostname, Network: v.network(), Clock: time.Now().UnixNano(), Entropy: agent.NewEntropy()}
	if spec.Linux != nil {
		pod.Sysctl = spec.Linux.Sysctl
	}
	if err := g.session.Pod(ctx, pod); err != nil {
		return v.explain(g, cause(ctx, err))
	}
	v.begun = true
	return nil
}

// Ended is closed when the VM has stopped. Preconditions: Start has succeeded.
func (p *Pod) Ended() <-chan struct{} { return p.guest.ended }

// Add runs a container and returns its first process, which the caller waits
// for; then it removes the container. It does not keep m.Root.
func (p *Pod) Add(ctx context.Context, m PodMember, io workload.Stdio) (*Member, error) {
	p.mu.Lock()
	if p.by[m.ID] != nil {
		p.mu.Unlock()
		return nil, fmt.Errorf("container %s is in this pod already", m.ID)
	}
	p.made++
	c := &Member{id: fmt.Sprintf("c%d", p.made), spec: m.Spec}
	c.remove = sync.OnceValue(func() error { return p.remove(m.ID, c) })
	p.by[m.ID] = c
	p.mu.Unlock()
	err := p.podFS.Attach(c.id, m.Root)
	if err == nil {
		c.Process, err = p.create(ctx, c, m, io)
	}
	if err != nil {
		_ = c.remove() // the guest has done it, unless it was too slow
		return nil, startError(err)
	}
	p.mu.Lock()
	leaving := c.leaving
	p.mu.Unlock()
	if leaving { // and the guest was perhaps told when it knew nothing of it yet
		_ = p.remove(m.ID, c)
		return nil, fmt.Errorf("container %s was removed while it started", m.ID)
	}
	return c, nil
}

// Remove ends what is left of the container, and lets go of its root. It may be
// called again, and then waits for the first call.
func (m *Member) Remove() error { return m.remove() }

func (p *Pod) create(ctx context.Context, c *Member, m PodMember, io workload.Stdio) (workload.Process, error) {
	ctx, over := p.untilEnded(ctx, p.guest)
	defer over(nil)
	r := guestproto.Container{
		ID: c.id, ReadOnly: m.Spec.Root != nil && m.Spec.Root.Readonly, Limits: m.Limits, SharePIDs: m.SharePIDs,
		Process: guestProcess(p.execID(), m.Spec.Process),
	}
	if l := m.Spec.Linux; l != nil {
		r.MaskedPaths, r.ReadonlyPaths, r.Sysctl = l.MaskedPaths, l.ReadonlyPaths, l.Sysctl
	}
	var err error
	if r.Process.Filter, err = filter(m.Spec.Linux); err != nil {
		return nil, err
	}
	proc, err := p.guest.session.Create(ctx, r, agent.IO{Stdin: io.In, Stdout: io.Out, Stderr: io.Err})
	if err != nil {
		return nil, cause(ctx, err)
	}
	return &process{p: proc, vm: p.VM, guest: p.guest}, nil
}

// Remove is Member.Remove of the container with that ID, if there is one.
func (p *Pod) Remove(id string) error {
	p.mu.Lock()
	c := p.by[id]
	p.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.remove()
}

// remove has the guest end a container, and takes its root away whatever the guest
// says, or if it says nothing.
func (p *Pod) remove(id string, c *Member) error {
	p.mu.Lock()
	c.leaving = true
	p.mu.Unlock()
	ctx, over := p.untilEnded(context.Background(), p.guest)
	defer over(nil)
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	err := p.guest.session.Remove(ctx, c.id)
	p.podFS.Detach(c.id)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by[id] == c {
		delete(p.by, id)
	}
	return err
}

// removeTimeout is what a guest has to end a container: twice what its agent
// allows for each of the two steps.
const removeTimeout = 20 * time.Second

// ExecIn runs another process in a container.
func (p *Pod) ExecIn(ctx context.Context, id string, spec *specs.Process, io workload.Stdio) (workload.Process, error) {
	p.mu.Lock()
	c := p.by[id]
	p.mu.Unlock()
	if c == nil {
		return nil, errNoMember(id)
	}
	return p.execIn(ctx, c.id, c.spec, spec, io)
}

func errNoMember(id string) error {
	if id == "" {
		return errors.New("the sandbox of a pod's VM runs nothing itself; name one of its containers")
	}
	return fmt.Errorf("container %s is not in this pod's VM: it has not started, or has ended", id)
}

// podDevice is the file system device that containers' roots are attached to.
func (v *VM) podDevice() (*fs.Device, error) {
	var err error
	v.podFS, err = fs.NewAttachable(rootSerial)
	return v.podFS, err
}
