package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// statsHeader is struct kvm_stats_header.
type statsHeader struct {
	Flags      uint32
	NameSize   uint32
	NumDesc    uint32
	IDOffset   uint32
	DescOffset uint32
	DataOffset uint32
}

// statsDesc is struct kvm_stats_desc without the name that follows it.
type statsDesc struct {
	Flags      uint32
	Exponent   int16
	Size       uint16
	Offset     uint32
	BucketSize uint32
}

const (
	statsHeaderSize = 24
	statsDescSize   = 16

	statsTypeMask  = 0xf  // KVM_STATS_TYPE_MASK
	statsUnitShift = 4    // KVM_STATS_UNIT_SHIFT
	statsBaseShift = 8    // KVM_STATS_BASE_SHIFT
	statsBasePow2  = 1    // KVM_STATS_BASE_POW2, shifted down
	maxStatDescs   = 4096 // ours: KVM has about 50
	maxStatName    = 256  // ours: KVM has 48
)

// StatType says how a statistic moves.
type StatType uint8

// Types of statistic.
const (
	StatCumulative StatType = 0 // KVM_STATS_TYPE_CUMULATIVE: only grows
	StatInstant    StatType = 1 // KVM_STATS_TYPE_INSTANT: goes up and down
	StatPeak       StatType = 2 // KVM_STATS_TYPE_PEAK: largest so far
	StatLinearHist StatType = 3 // KVM_STATS_TYPE_LINEAR_HIST: buckets of BucketSize
	StatLogHist    StatType = 4 // KVM_STATS_TYPE_LOG_HIST: buckets of powers of two
)

// StatUnit is what a statistic counts.
type StatUnit uint8

// Units of statistics.
const (
	StatUnitNone    StatUnit = 0 // KVM_STATS_UNIT_NONE
	StatUnitBytes   StatUnit = 1 // KVM_STATS_UNIT_BYTES
	StatUnitSeconds StatUnit = 2 // KVM_STATS_UNIT_SECONDS
	StatUnitCycles  StatUnit = 3 // KVM_STATS_UNIT_CYCLES
	StatUnitBoolean StatUnit = 4 // KVM_STATS_UNIT_BOOLEAN
)

// StatDesc describes one statistic of a VM or vCPU. Its values are to be
// multiplied by Base (10 or 2) to the power of Exponent to be in Unit.
type StatDesc struct {
	Name       string
	Type       StatType
	Unit       StatUnit
	Base       int
	Exponent   int
	Len        int // number of values: 1, or the buckets of a histogram
	BucketSize uint32

	offset uint32 // bytes from the start of the data block
}

// Stat is a statistic and what it was when it was read.
type Stat struct {
	*StatDesc
	Values []uint64
}

// StatsFD reads the binary statistics of a VM or vCPU (api.rst 4.133). Unlike
// other vCPU calls it may be used from any goroutine, one at a time.
type StatsFD struct {
	fd     fd
	id     string
	descs  []StatDesc
	data   int64 // where the data block starts
	length int   // its length in bytes
}

// StatsFD opens the VM's statistics (KVM_GET_STATS_FD).
func (vm *VM) StatsFD() (*StatsFD, error) { return openStats(&vm.fd, vm) }

// StatsFD opens the vCPU's statistics (KVM_GET_STATS_FD).
func (v *VCPU) StatsFD() (*StatsFD, error) { return openStats(&v.fd, v.vm) }

func openStats(from *fd, vm *VM) (*StatsFD, error) {
	n, err := from.call(&reqGetStatsFD, 0)
	if err != nil {
		return nil, explain(err, vm, CapBinaryStatsFD)
	}
	s := &StatsFD{}
	s.fd.init(n, from.name+"-stats")
	s.id, s.descs, s.data, err = parseStats(statsReader{&s.fd})
	if err != nil {
		_ = s.Close() // the first error is the one to tell
		return nil, fmt.Errorf("%s: %w", s.fd.name, err)
	}
	for _, d := range s.descs {
		s.length = max(s.length, int(d.offset)+8*d.Len)
	}
	return s, nil
}

// Close releases the descriptor. It is idempotent.
func (s *StatsFD) Close() error { return s.fd.close() }

// ID names the VM or vCPU as KVM does, for example "kvm-4711/vcpu-0".
func (s *StatsFD) ID() string { return s.id }

// Descs describes the statistics, in the order of Read.
func (s *StatsFD) Descs() []StatDesc { return s.descs }

// Read returns all statistics as they are now.
func (s *StatsFD) Read() ([]Stat, error) {
	buf := make([]byte, s.length)
	if _, err := (statsReader{&s.fd}).ReadAt(buf, s.data); err != nil {
		return nil, fmt.Errorf("%s: %w", s.fd.name, err)
	}
	stats := make([]Stat, len(s.descs))
	for i := range s.descs {
		d := &s.descs[i]
		stats[i] = Stat{StatDesc: d, Values: make([]uint64, d.Len)}
		for j := range stats[i].Values {
			stats[i].Values[j] = binary.NativeEndian.Uint64(buf[int(d.offset)+8*j:])
		}
	}
	return stats, nil
}

// Get reads the statistic with the given name; ok is false when there is none.
func (s *StatsFD) Get(name string) (value uint64, ok bool, err error) {
	for _, d := range s.descs {
		if d.Name != name || d.Len == 0 {
			continue
		}
		var b [8]byte
		if _, err := (statsReader{&s.fd}).ReadAt(b[:], s.data+int64(d.offset)); err != nil {
			return 0, false, fmt.Errorf("%s: %s: %w", s.fd.name, name, err)
		}
		return binary.NativeEndian.Uint64(b[:]), true, nil
	}
	return 0, false, nil
}

// statsReader is pread on a descriptor.
type statsReader struct{ fd *fd }

func (r statsReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.fd.acquire()
	if err != nil {
		return 0, err
	}
	defer r.fd.release()
	done := 0
	for done < len(p) {
		k, err := unix.Pread(n, p[done:], off+int64(done))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, os.NewSyscallError("pread", err)
		}
		if k == 0 {
			return done, io.ErrUnexpectedEOF
		}
		done += k
	}
	return done, nil
}

// parseStats reads header, id and descriptors, and checks that they make sense.
func parseStats(r io.ReaderAt) (id string, descs []StatDesc, data int64, err error) {
	var hb [statsHeaderSize]byte
	if err := readFull(r, hb[:], 0); err != nil {
		return "", nil, 0, fmt.Errorf("statistics header: %w", err)
	}
	ne := binary.NativeEndian
	h := statsHeader{
		Flags: ne.Uint32(hb[0:]), NameSize: ne.Uint32(hb[4:]), NumDesc: ne.Uint32(hb[8:]),
		IDOffset: ne.Uint32(hb[12:]), DescOffset: ne.Uint32(hb[16:]), DataOffset: ne.Uint32(hb[20:]),
	}
	if h.NumDesc > maxStatDescs || h.NameSize > maxStatName || h.NameSize == 0 {
		return "", nil, 0, fmt.Errorf("statistics header: %d descriptors with names of %d bytes", h.NumDesc, h.NameSize)
	}
	idb := make([]byte, h.NameSize)
	if err := readFull(r, idb, int64(h.IDOffset)); err != nil {
		return "", nil, 0, fmt.Errorf("statistics id: %w", err)
	}
	step := statsDescSize + int(h.NameSize)
	buf := make([]byte, step*int(h.NumDesc))
	if err := readFull(r, buf, int64(h.DescOffset)); err != nil {
		return "", nil, 0, fmt.Errorf("statistics descriptors: %w", err)
	}
	descs = make([]StatDesc, h.NumDesc)
	for i := range descs {
		b := buf[i*step : (i+1)*step]
		flags := ne.Uint32(b)
		d := StatDesc{
			Name:       cString(b[statsDescSize:]),
			Type:       StatType(flags & statsTypeMask),
			Unit:       StatUnit(flags >> statsUnitShift & 0xf),
			Base:       10,
			Exponent:   int(int16(ne.Uint16(b[4:]))),
			Len:        int(ne.Uint16(b[6:])),
			offset:     ne.Uint32(b[8:]),
			BucketSize: ne.Uint32(b[12:]),
		}
		if flags>>statsBaseShift&0xf == statsBasePow2 {
			d.Base = 2
		}
		if d.offset > 1<<20 {
			return "", nil, 0, fmt.Errorf("statistic %q at offset %#x", d.Name, d.offset)
		}
		descs[i] = d
	}
	return cString(idb), descs, int64(h.DataOffset), nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
