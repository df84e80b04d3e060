package fs

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/fs/hostdir"
)

// Kind is the file system device.
var Kind = virtio.Kind{
	Name: "fs",
	Help: "a directory of the host (virtiofs)",
	Options: []virtio.Option{
		{Key: "path", Help: "the directory, or one file"},
		{Key: "tag", Help: "the name to mount it by (at most 36 bytes)"},
		{Key: "ro", Help: "on: the guest cannot change it"},
	},
	New: newFromArgs,
}

// Queues (§5.11.2): requests that must overtake others, then the rest.
const (
	queueUrgent = iota
	queueRequests
	queues
)

const (
	queueSize = 1024
	// tagSize is the tag's field in configuration space (§5.11.4).
	tagSize    = 36
	configSize = tagSize + 4
)

// maxData bounds the data of one read or write request, in bytes.
const maxData = 1 << 20

// Options say what a device serves.
type Options struct {
	Tag string // what the guest mounts it by
	Dir hostdir.Options
}

// Metrics are the counters of the device.
type Metrics struct {
	Requests  atomic.Uint64 `metric:"fs_requests_total,requests"`
	Errors    atomic.Uint64 `metric:"fs_errors_total,answers with an error number"`
	ReadBytes atomic.Uint64 `metric:"fs_read_bytes_total,bytes"`
	Written   atomic.Uint64 `metric:"fs_written_bytes_total,bytes"`
}

// Device is a file system device. It implements io.Closer.
type Device struct {
	tag     string
	dir     *hostdir.FS
	metrics Metrics

	// session is one mount of the guest's. FUSE_INIT writes what the other
	// requests read; Attach and Detach keep requests away.
	mu      sync.RWMutex
	session *fuse.ProtocolServer
	// init is the guest's FUSE_INIT, and answer what it was told, while it has the
	// directory mounted.
	init, answer []byte
}

// New opens the directory and makes a device for it. Errors in what was asked
// for wrap virtio.ErrArgs.
func New(o Options) (*Device, error) {
	if err := checkTag(o.Tag); err != nil {
		return nil, err
	}
	dir, err := hostdir.New(o.Dir)
	if err != nil {
		return nil, err
	}
	d := &Device{tag: o.Tag, dir: dir}
	d.begin()
	return d, nil
}

func checkTag(tag string) error {
	if tag == "" || len(tag) > tagSize {
		return fmt.Errorf("%w: the tag %q of a shared directory has to have 1 to %d bytes", virtio.ErrArgs, tag, tagSize)
	}
	return nil
}

// NewAttachable makes a device whose root directory is made up: Attach puts
// directories there. Errors are those of New.
func NewAttachable(tag string) (*Device, error) {
	if err := checkTag(tag); err != nil {
		return nil, err
	}
	dir, err := hostdir.NewAttachable(hostdir.Options{})
	if err != nil {
		return nil, err
	}
	d := &Device{tag: tag, dir: dir}
	d.begin()
	return d, nil
}

// Attach puts a directory of the host under a name of the made-up root, while the
// guest runs. It does not keep dir. Preconditions: d is of NewAttachable.
func (d *Device) Attach(name string, dir *os.File) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dir.Attach(name, dir)
}

// Detach takes it away: what the guest still has of it is stale. It waits for a
// request that is being served.
func (d *Device) Detach(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dir.Detach(name)
}

func newFromArgs(a virtio.Args) (virtio.Device, error) {
	ro, err := a.Bool("ro", false)
	if err != nil {
		return nil, err
	}
	path := a.String("path", "")
	if path == "" {
		return nil, fmt.Errorf("%w: %s: which directory? (path=)", virtio.ErrArgs, a.ID)
	}
	return New(Options{Tag: a.String("tag", a.ID), Dir: hostdir.Options{Path: path, ReadOnly: ro}})
}

// Info describes the queues.
func (d *Device) Info() virtio.Info {
	return virtio.Info{ID: virtio.IDFS, QueueSizes: []uint16{queueSize, queueSize}, ConfigLen: configSize}
}

// ReadConfig shows the tag and the number of request queues (§5.11.4).
func (d *Device) ReadConfig(p []byte, off uint32) {
	var c [configSize]byte
	copy(c[:tagSize], d.tag)
	binary.LittleEndian.PutUint32(c[tagSize:], queues-queueRequests)
	copy(p, c[off:])
}

// WriteConfig ignores writes: there is nothing to set.
func (d *Device) WriteConfig([]byte, uint32) {}

// begin starts a session in which nothing is mounted.
func (d *Device) begin() {
	d.session = fuse.NewProtocolServer(d.dir, &fuse.MountOptions{
		MaxWrite: maxData, MaxBackground: 64, IgnoreSecurityLabels: true,
		DisabledCapabilities: fuse.CAP_ALLOW_IDMAP | fuse.CAP_PASSTHROUGH,
		Logger:               log.New(io.Discard, "", 0), // the guest decides how much there would be
		PanicHandler:         func(any) fuse.Status { return fuse.EIO },
	})
	d.init, d.answer = nil, nil
}

// Activate has nothing to start.
func (d *Device) Activate(context.Context, *virtio.Env) error { return nil }

// Reset ends the guest's mount.
func (d *Device) Reset() {
	d.dir.Reset()
	d.begin()
}

// Close lets go of the directory.
func (d *Device) Close() error { return d.dir.Close() }

// Only is the name of the one file that is served; empty for a directory.
func (d *Device) Only() string { return d.dir.Only() }

// Metrics returns the device's counters.
func (d *Device) Metrics() any { return &d.metrics }
