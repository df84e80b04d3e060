package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/bench/qemuvm"
	"github.com/hvctl/hvctl/internal/boot"
	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/workload"
)

// qemuTarget is QEMU's microvm machine with the kernel, the initramfs, the
// root file system image and the devices of our own VM; the benchmark plays
// hvctl's part towards the guest's agent, over vhost-vsock.
type qemuTarget struct {
	o      Options
	config workload.Config
	kernel string // unpacked: QEMU enters it by PVH, as we do
	conns  *qemuvm.Listeners
}

// newQEMU prepares the peer with one run of our own, whose configuration it
// takes over.
func newQEMU(ctx context.Context, o Options) (*qemuTarget, error) {
	if err := qemuvm.Look(o.QEMU); err != nil {
		return nil, err
	}
	probe := &hvctlTarget{o: o, transport: "mmio"}
	if _, err := probe.run(ctx); err != nil {
		return nil, fmt.Errorf("a first run to prepare the peer: %w", err)
	}
	q := &qemuTarget{o: o, config: probe.config}
	k, err := boot.OpenKernel(q.config.VM.Kernel, q.config.VM.KernelCache)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	q.kernel = k.ELFPath()
	q.conns, err = qemuvm.Listen()
	return q, err
}

func (q *qemuTarget) name() string { return "qemu/microvm" }

func (q *qemuTarget) close() { _ = q.conns.Close() }

func (q *qemuTarget) run(ctx context.Context) (s Sample, err error) {
	serial := filepath.Join(q.o.Root, "qemu-console.log")
	defer os.Remove(serial)
	c := exec.CommandContext(ctx, q.o.QEMU, qemuvm.Arguments(&q.config, q.kernel, q.o.CPUs, q.o.MemoryMiB, serial)...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	session := agent.New(q.conns, agent.Options{})
	served := make(chan struct{})
	go func() { defer close(served); _ = session.Serve(ctx) }() // ends with ctx
	start := workload.Monotonic()
	if err := c.Start(); err != nil {
		return s, err
	}
	go func() { cancel(fmt.Errorf("QEMU ended: %w", errors.Join(c.Wait(), errors.New(stderr.String())))) }()
	defer func() {
		_ = c.Process.Kill() // it may have powered off already
		<-ctx.Done()
		<-served
	}()
	mark := func(name string) { s.Stages = append(s.Stages, Stage{name, workload.Monotonic() - start}) }
	hello, err := session.Ready(ctx)
	if err != nil {
		return s, errors.Join(err, context.Cause(ctx))
	}
	mark("guest agent")
	s.InitNs = hello.BootNs
	first := &firstByte{seen: make(chan int64, 1)}
	input, end := io.Pipe()
	p, err := session.Run(ctx, guestproto.Run{
		Root:     guestproto.Root{Device: guestproto.Device{Serial: "root"}, FSType: q.config.Rootfs.FSType},
		Hostname: q.config.Spec.Hostname,
		Process: guestproto.Process{ID: "main", Spec: specs.Process{
			Args: script, Env: q.config.Spec.Process.Env, Cwd: "/", Capabilities: q.config.Spec.Process.Capabilities,
		}},
		Clock: time.Now().UnixNano(), Entropy: agent.NewEntropy(),
	}, agent.IO{Stdin: input, Stdout: first})
	if err != nil {
		return s, errors.Join(err, context.Cause(ctx))
	}
	mark("workload started")
	select {
	case at := <-first.seen:
		s.TotalNs = at - start
	case <-ctx.Done():
		return s, context.Cause(ctx)
	}
	s.Stages = append(s.Stages, Stage{"first byte", s.TotalNs})
	if s.PSSBytes, err = pssBeyondRAM(c.Process.Pid, "memfd:memory-backend-memfd"); err != nil {
		return s, err
	}
	_ = end.Close()
	_, err = p.Wait(ctx)
	return s, err
}

// firstByte notes when the first output came.
type firstByte struct{ seen chan int64 }

func (f *firstByte) Write(p []byte) (int, error) {
	select {
	case f.seen <- workload.Monotonic():
	default:
	}
	return len(p), nil
}
