package blk

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hvctl/hvctl/internal/metrics"
	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
)

// Kind is the block device. Args.Files["image"] and "direct", when set, are
// Options.Image and Options.Direct.
var Kind = virtio.Kind{
	Name: "blk",
	Help: "disk backed by an image file or block device",
	Options: []virtio.Option{
		{Key: "path", Help: "image file or block device"},
		{Key: "format", Help: "raw, or qcow2, which is only read; default raw, whatever the file looks like"},
		{Key: "overlay", Help: "file that takes what the guest writes, with format=qcow2; made when there is none"},
		{Key: "ro", Help: "on: the guest cannot write"},
		{Key: "serial", Help: "what the guest reads as the disk's serial number, at most 20 bytes; default its id"},
		{Key: "cache", Help: "writeback: through the host's page cache; none: past it (O_DIRECT); default writeback"},
		{Key: "engine", Help: "plain: a system call for each request; uring: io_uring; default uring where the host has it, else plain"},
		{Key: "queues", Help: "request queues, 1 to 16; default 1"},
		{Key: "iops", Help: "requests a second that the disk is held to; default no limit"},
		{Key: "bps", Help: "bytes a second that the disk is held to; default no limit"},
	},
	New: newFromArgs,
}

func newFromArgs(a virtio.Args) (virtio.Device, error) {
	o := Options{
		Path: a.String("path", ""), Format: Format(a.String("format", "")), Overlay: a.String("overlay", ""), Serial: a.String("serial", a.ID[:min(len(a.ID), idSize)]),
		Cache: Cache(a.String("cache", "")), Engine: Engine(a.String("engine", "")), Image: a.Files["image"], Direct: a.Files["direct"], Log: a.Logger(),
	}
	var errs [4]error
	var queues uint64
	o.ReadOnly, errs[0] = a.Bool("ro", false)
	queues, errs[1] = a.Uint("queues", 1, 1, MaxQueues)
	o.Queues = int(queues)
	o.Limits.IOPS, errs[2] = a.Uint("iops", 0, 0, maxRate)
	o.Limits.BPS, errs[3] = a.Uint("bps", 0, 0, maxRate)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return New(o)
}

// Feature bits (§5.2.3).
const (
	featureSegMax      virtio.Features = 1 << 2
	featureReadOnly    virtio.Features = 1 << 5
	featureBlockSize   virtio.Features = 1 << 6
	featureFlush       virtio.Features = 1 << 9
	featureMultiQueue  virtio.Features = 1 << 12
	featureDiscard     virtio.Features = 1 << 13
	featureWriteZeroes virtio.Features = 1 << 14
)

const (
	queueSize  = 128
	configSize = 60            // up to the end of the write-zeroes fields (§5.2.4)
	segMax     = queueSize - 2 // data buffers of one request

	// MaxQueues is the most request queues that a disk can have.
	MaxQueues = 16
)

// Cache says what stands between the guest and the image.
type Cache string

// The caches.
const (
	CacheWriteback Cache = "writeback" // the host's page cache
	CacheNone      Cache = "none"      // nothing: O_DIRECT
)

// Engine is how requests reach the kernel.
type Engine string

// The engines.
const (
	EnginePlain Engine = "plain" // preadv, pwritev
	EngineURing Engine = "uring" // io_uring
)

// Options says what disk to make.
type Options struct {
	Path     string // of an image file or a block device
	Format   Format // empty means FormatRaw
	Overlay  string // of a file for what is written, with FormatQcow2; empty only if ReadOnly
	ReadOnly bool   // the guest cannot write
	Serial   string // at most 20 bytes
	// Image, when set, is Path, opened and locked by another process that lets this
	// one go on with it. New takes it over when it succeeds.
	Image *os.File
	// Direct, when set, is Image once more with O_DIRECT, of another process, too; for
	// CacheNone where this one cannot open files.
	Direct *os.File
	Cache  Cache // empty means CacheWriteback
	// Engine, when empty, is EngineURing if the host has it, else EnginePlain.
	Engine Engine
	Queues int // 0 means 1; at most MaxQueues
	Limits Limits
	Log    *slog.Logger
}

func (o *Options) check() error {
	o.Cache = cmp.Or(o.Cache, CacheWriteback)
	o.Queues = cmp.Or(o.Queues, 1)
	switch {
	case o.Path == "":
		return fmt.Errorf("%w: a disk needs a path", virtio.ErrArgs)
	case len(o.Serial) > idSize:
		return fmt.Errorf("%w: serial %q is longer than %d bytes", virtio.ErrArgs, o.Serial, idSize)
	case o.Cache != CacheWriteback && o.Cache != CacheNone:
		return fmt.Errorf("%w: cache=%q; there are writeback and none", virtio.ErrArgs, o.Cache)
	case o.Engine != "" && o.Engine != EnginePlain && o.Engine != EngineURing:
		return fmt.Errorf("%w: engine=%q; there are plain and uring", virtio.ErrArgs, o.Engine)
	case o.Queues < 1 || o.Queues > MaxQueues:
		return fmt.Errorf("%w: %d queues; 1 to %d are possible", virtio.ErrArgs, o.Queues, MaxQueues)
	}
	if err := o.checkFormat(); err != nil {
		return err
	}
	return o.Limits.check()
}

// checkFormat refuses what only a raw image has, and the other way round.
func (o *Options) checkFormat() error {
	o.Format = cmp.Or(o.Format, FormatRaw)
	switch {
	case o.Format == FormatRaw && o.Overlay == "":
		return nil
	case o.Format == FormatRaw:
		return fmt.Errorf("%w: overlay=%s is for format=qcow2", virtio.ErrArgs, o.Overlay)
	case o.Format != FormatQcow2:
		return fmt.Errorf("%w: format=%q; there are raw and qcow2", virtio.ErrArgs, o.Format)
	case o.ReadOnly == (o.Overlay != ""):
		return fmt.Errorf("%w: %s: an image in qcow2 is only read: give overlay=FILE for what the guest writes, or ro=on, and not both", virtio.ErrArgs, o.Path)
	case o.Cache == CacheNone || o.Engine == EngineURing:
		return fmt.Errorf("%w: %s: cache=none and engine=uring are for raw images", virtio.ErrArgs, o.Path)
	}
	o.Engine = EnginePlain
	return nil
}

// Metrics are the counters of the device. Operations count when they have
// succeeded.
type Metrics struct {
	Reads         atomic.Uint64 `metric:"read_ops_total,1"`
	ReadBytes     atomic.Uint64 `metric:"read_bytes_total,bytes"`
	Writes        atomic.Uint64 `metric:"write_ops_total,1"`
	WriteBytes    atomic.Uint64 `metric:"write_bytes_total,bytes"`
	Flushes       atomic.Uint64 `metric:"flush_ops_total,1"`
	Syncs         atomic.Uint64 `metric:"syncs_total,1"` // fdatasync calls, also those that no flush asked for
	Discards      atomic.Uint64 `metric:"discard_ops_total,1"`
	WriteZeroes   atomic.Uint64 `metric:"write_zeroes_ops_total,1"`
	Unsupported   atomic.Uint64 `metric:"unsupported_ops_total,1"`
	GuestMistakes atomic.Uint64 `metric:"refused_ops_total,1"`
	Failures      atomic.Uint64 `metric:"failed_ops_total,1"`
	Throttled     atomic.Uint64 `metric:"throttled_total,1"` // times that a queue waited for its limits
	// How long requests took, from the ring and back, failed ones included.
	ReadTime  metrics.Histogram `metric:"read_latency,ns"`
	WriteTime metrics.Histogram `metric:"write_latency,ns"`
	FlushTime metrics.Histogram `metric:"flush_latency,ns"`
}

// took counts how long a request took.
func (m *Metrics) took(kind uint32, d time.Duration) {
	switch kind {
	case typeIn:
		m.ReadTime.Observe(d)
	case typeOut:
		m.WriteTime.Observe(d)
	case typeFlush:
		m.FlushTime.Observe(d)
	}
}

// Device is one disk.
type Device struct {
	im      *image
	serial  [idSize]byte
	log     *slog.Logger
	metrics Metrics
	limit   bucket
	workers []*worker // by queue
	// writeThrough is set while the driver did not accept FLUSH: a write is
	// durable when it completes (§5.2.6.2).
	writeThrough bool

	mu     sync.Mutex // guards what follows
	config [configSize]byte
	env    *virtio.Env // nil before Activate
}

// New opens and locks the image. Errors wrap virtio.ErrArgs, ErrImage or
// ErrLocked, and name the file.
func New(o Options) (*Device, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	im, err := openImage(o)
	if err != nil {
		return nil, err
	}
	d := &Device{im: im, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler))}
	d.limit.set(o.Limits)
	copy(d.serial[:], o.Serial)
	d.fillConfig(o.Queues)
	if err := d.makeWorkers(o); err != nil {
		return nil, errors.Join(err, im.giveUp(o))
	}
	return d, nil
}

// fillConfig makes the configuration space (§5.2.4), constant but for the size.
func (d *Device) fillConfig(queues int) {
	le := binary.LittleEndian
	le.PutUint64(d.config[0:], d.im.sectors.Load())
	le.PutUint32(d.config[12:], segMax)
	le.PutUint32(d.config[20:], sectorSize)
	le.PutUint16(d.config[34:], uint16(queues))
	le.PutUint32(d.config[36:], maxDiscard)
	le.PutUint32(d.config[40:], maxDiscardSegments)
	le.PutUint32(d.config[44:], 1) // discard_sector_alignment
	le.PutUint32(d.config[48:], maxZero)
	le.PutUint32(d.config[52:], maxZeroSegments)
	d.config[56] = 1 // write_zeroes_may_unmap
}

// Info describes the request queues.
func (d *Device) Info() virtio.Info {
	f := featureSegMax | featureBlockSize | featureFlush
	if d.im.readOnly {
		f |= featureReadOnly
	} else {
		f |= featureDiscard | featureWriteZeroes
	}
	if len(d.workers) > 1 {
		f |= featureMultiQueue
	}
	return virtio.Info{ID: virtio.IDBlock, Features: f, QueueSizes: slices.Repeat([]uint16{queueSize}, len(d.workers)), ConfigLen: configSize}
}

// ReadConfig implements virtio.ConfigSpace.
func (d *Device) ReadConfig(p []byte, off uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(p, d.config[off:])
}

// WriteConfig ignores the write: no field of ours is writable.
func (d *Device) WriteConfig([]byte, uint32) {}

// Activate notes how durable the driver expects writes to be.
func (d *Device) Activate(_ context.Context, env *virtio.Env) error {
	d.writeThrough = !env.Features.Has(featureFlush)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.env = env
	return nil
}

// environment is what the device works with while it is active.
func (d *Device) environment() *virtio.Env {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.env
}

// Reset has nothing to forget: the disk's contents are the state.
func (d *Device) Reset() {}

// Close releases the image and its lock.
func (d *Device) Close() error {
	var errs []error
	for _, w := range d.workers {
		errs = append(errs, w.close())
	}
	return errors.Join(append(errs, d.im.close())...)
}

// Metrics returns the device's counters.
func (d *Device) Metrics() any { return &d.metrics }

type stateV1 struct {
	Sectors  uint64
	ReadOnly bool
}

// StateVersion returns 1.
func (d *Device) StateVersion() uint32 { return 1 }

// SaveState returns what the restored disk has to match.
func (d *Device) SaveState() (any, error) { return stateV1{d.im.sectors.Load(), d.im.readOnly}, nil }

// LoadState checks that the disk is the one the guest knew.
func (d *Device) LoadState(dec state.Decoder) error {
	var s stateV1
	if err := dec.Into(&s); err != nil {
		return err
	}
	if s.Sectors != d.im.sectors.Load() || s.ReadOnly != d.im.readOnly {
		return fmt.Errorf("%w: the guest knew a disk of %d sectors (read-only %v), this one has %d (%v)",
			virtio.ErrState, s.Sectors, s.ReadOnly, d.im.sectors.Load(), d.im.readOnly)
	}
	return nil
}
