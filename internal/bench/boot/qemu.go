package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/mdlayher/vsock"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/agent"
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
	conns  listeners
}

// newQEMU prepares the peer with one run of our own, whose configuration it
// takes over.
func newQEMU(ctx context.Context, o Options) (*qemuTarget, error) {
	if err := lookQEMU(o.QEMU); err != nil {
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
	for port, l := range map[uint32]*net.Listener{guestproto.ControlPort: &q.conns.control, guestproto.StreamPort: &q.conns.stream} {
		if *l, err = vsock.Listen(port, nil); err != nil {
			return nil, fmt.Errorf("peer: listen on vsock port %d (needs vhost_vsock): %w", port, err)
		}
	}
	return q, nil
}

func (q *qemuTarget) name() string { return "qemu/microvm" }

func (q *qemuTarget) close() {
	_ = q.conns.control.Close()
	_ = q.conns.stream.Close()
}

// qemuCID is the peer's guest.
const qemuCID = 4242

func (q *qemuTarget) arguments(serial string) []string {
	return []string{
		"-M", "microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off,isa-serial=on,memory-backend=ram",
		"-cpu", "host", "-smp", fmt.Sprint(q.o.CPUs), "-m", fmt.Sprint(q.o.MemoryMiB),
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%dM,share=on", q.o.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "file:" + serial,
		"-kernel", q.kernel, "-initrd", q.config.VM.Initrd, "-append", q.config.VM.Cmdline,
		"-drive", "id=root,if=none,format=raw,read-only=on,file=" + q.config.Rootfs.ImagePath,
		"-device", "virtio-blk-device,drive=root,serial=root",
		"-device", fmt.Sprintf("vhost-vsock-device,guest-cid=%d", qemuCID),
		"-device", "virtio-rng-device",
	}
}

func (q *qemuTarget) run(ctx context.Context) (s Sample, err error) {
	serial := filepath.Join(q.o.Root, "qemu-console.log")
	defer os.Remove(serial)
	c := exec.CommandContext(ctx, q.o.QEMU, q.arguments(serial)...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	session := agent.New(&q.conns, agent.Options{})
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

// listeners are the host's two vsock ports, kept over all runs.
type listeners struct{ control, stream net.Listener }

// AcceptControl implements agent.Transport.
func (l *listeners) AcceptControl(ctx context.Context) (net.Conn, error) {
	return accept(ctx, l.control)
}

// AcceptStream implements agent.Transport.
func (l *listeners) AcceptStream(ctx context.Context) (net.Conn, error) { return accept(ctx, l.stream) }

// accept ends with ctx; the listener stays usable.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	type deadliner interface{ SetDeadline(time.Time) error }
	d := l.(deadliner) //nolint:forcetypeassert // both are *vsock.Listener
	if err := d.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = d.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c, err := l.Accept()
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return c, err
}
