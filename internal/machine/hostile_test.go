package machine

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/vsock"
)

// TestAHostileGuestHarmsOnlyItself boots a kernel whose init drives every
// register of every device at random, with rings at random addresses. It may
// crash itself; the VMM may not fail, hang or grow.
func TestAHostileGuestHarmsOnlyItself(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	length, full := 6*time.Second, os.Getenv("HVCTL_TEST_FULL") != ""
	if full {
		length = 5 * time.Minute // on each transport
	}
	type combination struct {
		tr    Transport
		vsock string // backend
	}
	all := []combination{{MMIO, vsock.BackendUser}, {PCI, vsock.BackendUser}, {PCI, vsock.BackendVhost}}
	if full {
		all = append(all, combination{MMIO, vsock.BackendVhost})
	}
	for _, tc := range all {
		t.Run(string(tc.tr)+" "+tc.vsock, func(t *testing.T) {
			tr, fed := tc.tr, []string{"rng0", "disk0", "net0", "console0", "vsock"}
			if tc.vsock == vsock.BackendVhost {
				testenv.Require(t, testenv.VhostVsock)
				fed = fed[:4] // the kernel does not tell what it was fed
			}
			disk := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			before, seed := anonymous(t), time.Now().UnixNano()
			t.Logf("seed %d", seed)
			g := bootLinux(t, linux{
				kernel: "generic", mode: "poke",
				cmdline: fmt.Sprintf("iomem=relaxed hv.seconds=%d hv.seed=%d hv.transport=%s", int(length.Seconds()), seed, tr),
				Config: Config{CPUs: 2, Transport: tr, MemoryBytes: 512 << 20, Devices: []Device{
					{Kind: "rng", Args: virtio.Args{ID: "rng0"}},
					{Kind: "blk", Args: virtio.Args{ID: "disk0", Values: map[string]string{"path": disk}}},
					{Kind: "net", Args: virtio.Args{ID: "net0", Files: map[string]*os.File{"tap": echo(t)}}},
					{Kind: "console", Args: virtio.Args{ID: "console0"}},
					{Kind: "vsock", Args: virtio.Args{ID: "vsock", Values: map[string]string{"backend": tc.vsock, "cid": "4300"}}},
				}},
			})
			g.wait("poking", strconv.Itoa(hostileDevices))
			files, tasks := descriptors(t), runtime.NumGoroutine()
			var end End
			timer := time.NewTimer(length + 30*time.Second)
			defer timer.Stop()
			select {
			case <-g.ended:
				end = g.how
			case <-timer.C: // it has stopped its own interrupts, say
				start := time.Now()
				if err := g.Pause(t.Context()); err != nil {
					t.Errorf("Pause: %v", err)
				}
				if d := time.Since(start); d > 20*time.Second {
					t.Errorf("Pause took %v", d)
				}
				end = End{Reason: Killed}
			}
			t.Logf("%v; the guest said %q", end, g.said("pokes"))
			if errs := g.said("error"); len(errs) > 0 {
				t.Errorf("the guest did not get to it: %q", errs)
			}
			if end.Reason == Failed {
				t.Errorf("the guest ended the VMM: %v", end)
			}
			if after := anonymous(t); after > before+48<<20 {
				t.Errorf("the VMM grew from %d to %d MiB", before>>20, after>>20)
			}
			if n := descriptors(t); n > files+64 {
				t.Errorf("the VMM had %d open files, and has %d", files, n)
			}
			if n := runtime.NumGoroutine(); n > tasks+64 {
				t.Errorf("the VMM had %d goroutines, and has %d", tasks, n)
			}
			for _, d := range fed {
				// In the short form a device may have refused all that it got.
				n := g.Counters()[d+".chains_total"]
				if !full {
					n += g.Counters()[d+".guest_errors_total"]
				}
				if len(g.said("pokes")) == 1 && n == 0 {
					t.Errorf("%s was never fed a chain", d)
				}
			}
			var bad uint64
			for name, n := range g.Counters() {
				if strings.HasSuffix(name, "guest_errors_total") {
					bad += n
				}
			}
			if bad == 0 && len(g.said("pokes")) == 1 {
				t.Error("not one error of the guest was counted: was anything reached?")
			}
		})
	}
}

// anonymous is this process's own memory, guest RAM left out.
func anonymous(t *testing.T) uint64 {
	t.Helper()
	for l := range strings.SplitSeq(text("/proc/self/status"), "\n") {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "RssAnon:" {
			n, err := strconv.ParseUint(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no RssAnon")
	return 0
}

// hostileDevices is how many devices the hostile guest finds.
const hostileDevices = 5

// descriptors is how many files this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// echo is a network whose only station sends every frame back.
func echo(t *testing.T) *os.File {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	far := os.NewFile(uintptr(fds[1]), "far end")
	t.Cleanup(func() { far.Close() })
	go func() {
		b := make([]byte, 1<<17)
		for {
			n, err := far.Read(b)
			if err != nil || n == 0 {
				return
			}
			if _, err := far.Write(b[:n]); err != nil {
				return
			}
		}
	}()
	return os.NewFile(uintptr(fds[0]), "near end")
}

// poker is the hostile guest's state.
type poker struct {
	r       *rand.Rand
	ports   *os.File
	windows []window
	owned   []uint64 // physical pages that only it uses
	ram     []byte   // those pages
	rings   []func()
}

// window is a mapped range of device registers.
type window struct{ mem []byte }

func guestPoke() error {
	seed, err := strconv.ParseUint(word("hv.seed"), 10, 64)
	if err != nil {
		return err
	}
	seconds, err := strconv.Atoi(word("hv.seconds"))
	if err != nil {
		return err
	}
	p := &poker{r: rand.New(rand.NewPCG(seed, 0))}
	if p.ports, err = os.OpenFile("/dev/port", os.O_RDWR, 0); err != nil {
		return err
	}
	if p.ram, err = unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_LOCKED|unix.MAP_POPULATE); err != nil {
		return err
	}
	if p.owned, err = framesOf(p.ram); err != nil {
		return err
	}
	if word("hv.transport") == string(PCI) {
		err = p.findPCI()
	} else {
		err = p.findMMIO()
	}
	if err != nil {
		return err
	}
	say("poking", len(p.rings)/2) // each is driven in two ways
	n := 0
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); n++ {
		switch p.r.IntN(8) {
		case 0:
			p.port()
		case 1, 2, 3:
			p.register()
		case 4:
			p.scribble()
		default:
			p.rings[p.r.IntN(len(p.rings))]()
		}
	}
	say("pokes", n)
	return nil
}

// physical maps device registers.
func physical(at, size uint64) ([]byte, error) {
	f, err := os.OpenFile("/dev/mem", os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), int64(at), int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %#x: %w", at, err)
	}
	return b, nil
}

// store writes n bytes of v as one access.
func store(b []byte, n int, v uint64) {
	switch n {
	case 1:
		b[0] = byte(v)
	case 2:
		binary.LittleEndian.PutUint16(b, uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(b, uint32(v))
	default:
		binary.LittleEndian.PutUint64(b, v)
	}
}

var sink uint64

func load(b []byte, n int) uint64 {
	switch n {
	case 1:
		sink = uint64(b[0])
	case 2:
		sink = uint64(binary.LittleEndian.Uint16(b))
	case 4:
		sink = uint64(binary.LittleEndian.Uint32(b))
	default:
		sink = binary.LittleEndian.Uint64(b)
	}
	return sink
}

// value is a number that a device may not expect.
func (p *poker) value() uint64 {
	switch p.r.IntN(6) {
	case 0:
		return p.r.Uint64()
	case 1:
		return uint64(p.r.IntN(16))
	case 2:
		return 1 << p.r.IntN(64)
	case 3:
		return ^uint64(0) >> p.r.IntN(64)
	}
	return p.address()
}

// address is where a ring or a buffer may be said to be: mostly memory of
// ours, or memory that is none, for scribbling on the kernel ends the test.
func (p *poker) address() uint64 {
	switch p.r.IntN(8) {
	case 0:
		return p.r.Uint64()
	case 1:
		return 512<<20 - uint64(p.r.IntN(64)) // the end of RAM
	case 2:
		return 0xc0000000 + uint64(p.r.IntN(1<<30)) // devices
	case 3:
		return ^uint64(0) - uint64(p.r.IntN(4096))
	}
	return p.owned[p.r.IntN(len(p.owned))] + uint64(p.r.IntN(64)*64)
}

// port reads and writes I/O ports, but for those that end the machine and those
// of the interrupt controller, which would only end the guest.
func (p *poker) port() {
	at := int64(p.r.IntN(1 << 16))
	if p.r.IntN(2) == 0 {
		at = []int64{0x60, 0x64, 0x70, 0x71, 0x505, 0x600, 0x601, 0x603, 0x605, 0x607, 0xcf8, 0xcfa, 0xcfc, 0xcfd, 0xcff}[p.r.IntN(15)]
	}
	b := []byte{byte(p.r.Uint32())}
	switch {
	case at >= 0x20 && at < 0x60 || at >= 0xa0 && at < 0xc0 || at == 0x4d0 || at == 0x4d1:
		return
	case at >= 0x3f8 && at < 0x400: // our way to report
		_, _ = p.ports.ReadAt(b, at+2)
		return
	case p.r.IntN(2) == 0:
		_, _ = p.ports.ReadAt(b, at)
		return
	case at == 0x604 || at == 0x606 || at == 0xcf9 || at == 0x64 && b[0] == 0xfe:
		return
	case at == 0x505:
		b[0] &^= panicked
	}
	_, _ = p.ports.WriteAt(b, at)
}

// register reads or writes anywhere in a window, of any width.
func (p *poker) register() {
	w := p.windows[p.r.IntN(len(p.windows))]
	n := 1 << p.r.IntN(4)
	off := p.r.IntN(len(w.mem) - 8)
	if p.r.IntN(4) > 0 {
		off = p.r.IntN(min(len(w.mem)-8, 0x200)) &^ (n - 1)
	}
	if p.r.IntN(3) == 0 {
		load(w.mem[off:], n)
	} else {
		store(w.mem[off:], n, p.value())
	}
}

// scribble changes what the rings hold: descriptors, indices, headers.
func (p *poker) scribble() {
	for range 32 {
		store(p.ram[p.r.IntN(len(p.ram)/8)*8:], 8, p.value())
	}
}

// drive brings a device up as a driver would, with rings of its choice. The
// registers are written through set, by their names in the virtio-mmio layout.
func (p *poker) drive(set func(field int, v uint64), fields driveFields) {
	set(fields.status, 0)
	for _, s := range []uint64{1, 3} {
		set(fields.status, s)
	}
	for sel := range uint64(2) {
		set(fields.featureSel, sel)
		v := uint64(p.r.Uint32())
		if p.r.IntN(3) > 0 {
			v = sel // VERSION_1 alone
		}
		set(fields.features, v)
	}
	set(fields.status, 11)
	for q := range uint64(3) {
		set(fields.queueSel, q)
		set(fields.queueSize, 1<<p.r.IntN(9))
		for _, f := range fields.rings {
			a := p.address()
			set(f[0], a&0xffffffff)
			set(f[1], a>>32)
		}
		set(fields.queueReady, 1)
	}
	set(fields.status, 15)
	for q := range uint64(3) {
		set(fields.notify, q)
	}
}

// feed brings a device up as its own driver would, with rings that are in
// order, and gives it chains whose descriptors, headers and buffers are not.
// limit tells how long the selected queue may be.
func (p *poker) feed(set func(field int, v uint64), fields driveFields, limit func() uint64, kick func(q uint64)) {
	const queues, page = 3, 4096
	var sizes [queues]int
	set(fields.status, 0)
	clear(p.ram[:3*queues*page])
	for _, s := range []uint64{1, 3} {
		set(fields.status, s)
	}
	set(fields.featureSel, 0)
	set(fields.features, uint64(p.r.IntN(4))<<28) // indirect descriptors, event index
	set(fields.featureSel, 1)
	set(fields.features, 1) // VERSION_1
	set(fields.status, 11)
	for q := range uint64(queues) {
		set(fields.queueSel, q)
		sizes[q] = int(min(limit(), 64))
		if sizes[q] < 4 || sizes[q]&(sizes[q]-1) != 0 {
			sizes[q] = 64 // the device has no such queue
		}
		set(fields.queueSize, uint64(sizes[q]))
		for part, f := range fields.rings {
			a := p.owned[int(q)*3+part]
			set(f[0], a&0xffffffff)
			set(f[1], a>>32)
		}
		set(fields.queueReady, 1)
	}
	set(fields.status, 15)
	for range 1 + p.r.IntN(8) {
		q := p.r.IntN(queues)
		size := sizes[q]
		table, avail := p.ram[q*3*page:], p.ram[(q*3+1)*page:]
		// How many of a chain's four descriptors are readable, and what the
		// buffers pretend to hold.
		readable, kind := p.r.IntN(5), p.r.IntN(4)
		for i := range size {
			p.descriptor(table[i*16:], readable, kind, i, size)
		}
		idx := binary.LittleEndian.Uint16(avail[2:])
		for range 1 + p.r.IntN(size) {
			binary.LittleEndian.PutUint16(avail[4+int(idx)%size*2:], uint16(p.r.IntN(size/4)*4))
			idx++
		}
		binary.LittleEndian.PutUint16(avail[2:], idx)
		kick(uint64(q))
	}
}

// descriptor fills entry i of a table: mostly what a driver might write.
func (p *poker) descriptor(d []byte, readable, kind, i, size int) {
	const fence = 9 // the pages of the rings
	n := fence + p.r.IntN(len(p.owned)-fence)
	addr, length := p.owned[n]+uint64(p.r.IntN(64)), uint32(p.r.IntN(4032))
	p.header(kind, p.ram[n*4096+int(addr%4096):])
	var flags uint16
	if i%4 != 3 {
		flags = 1 // NEXT
	}
	if i%4 >= readable {
		flags |= 2 // WRITE
	}
	next := uint16(i+1) % uint16(size)
	switch p.r.IntN(512) {
	case 0:
		addr = p.address()
	case 1:
		length = p.r.Uint32()
	case 2:
		next = uint16(p.r.Uint32())
	case 3:
		flags |= uint16(p.r.Uint32())
	case 4:
		flags, length = 4, uint32(16*p.r.IntN(64)) // INDIRECT
	}
	binary.LittleEndian.PutUint64(d, addr)
	binary.LittleEndian.PutUint32(d[8:], length)
	binary.LittleEndian.PutUint16(d[12:], flags)
	binary.LittleEndian.PutUint16(d[14:], next)
}

// header makes the start of a buffer look like a request: to a disk (VIRTIO
// 1.2, 5.2.6), over a socket (5.10.6) or of an offloaded frame (5.1.6).
func (p *poker) header(kind int, b []byte) {
	le := binary.LittleEndian
	switch kind {
	case 0:
		le.PutUint32(b, uint32(p.r.IntN(16)))
		le.PutUint64(b[8:], uint64(p.r.IntN(4096))) // the disk has 2048
	case 1:
		le.PutUint64(b, 3)
		le.PutUint64(b[8:], uint64(p.r.IntN(4)))
		le.PutUint32(b[16:], uint32(p.r.IntN(2048)))
		le.PutUint32(b[20:], uint32(p.r.IntN(2048)))
		le.PutUint32(b[24:], uint32(p.r.IntN(256)))
		le.PutUint16(b[28:], uint16(p.r.IntN(3)))
		le.PutUint16(b[30:], uint16(p.r.IntN(9)))
		le.PutUint32(b[36:], uint32(p.value()))
		le.PutUint32(b[40:], uint32(p.value()))
	case 2:
		b[0], b[1] = byte(p.r.IntN(4)), byte(p.r.IntN(6))
		for at := 2; at < 12; at += 2 {
			le.PutUint16(b[at:], uint16(p.value()))
		}
	default:
		le.PutUint64(b, p.value()) // the head of an indirect table, say
		le.PutUint32(b[8:], uint32(p.value()))
		le.PutUint32(b[12:], uint32(p.value()))
	}
}

// driveFields are register offsets; those of a ring are its low and high half.
type driveFields struct {
	status, featureSel, features, queueSel, queueSize, queueReady, notify int
	rings                                                                 [3][2]int
}

// VIRTIO 1.2, 4.2.2.
var mmioFields = driveFields{0x70, 0x24, 0x20, 0x30, 0x38, 0x44, 0x50, [3][2]int{{0x80, 0x84}, {0x90, 0x94}, {0xa0, 0xa4}}}

func (p *poker) findMMIO() error {
	for i := range uint64(hostileDevices) {
		b, err := physical(uint64(virtioMMIOBase)+i*virtioMMIOStep, virtioMMIOStep)
		if err != nil {
			return err
		}
		if load(b, 4) != 0x74726976 {
			return fmt.Errorf("no device %d", i)
		}
		p.windows = append(p.windows, window{mem: b})
		set := func(f int, v uint64) { store(b[f:], 4, v) }
		p.rings = append(p.rings,
			func() { p.drive(set, mmioFields) },
			func() {
				p.feed(set, mmioFields, func() uint64 { return load(b[0x34:], 4) }, func(q uint64) { set(mmioFields.notify, q) })
			})
	}
	return nil
}

// findPCI maps configuration space and every BAR, and switches the functions
// on.
func (p *poker) findPCI() error {
	ecam, err := physical(uint64(ecamBase), 1<<20)
	if err != nil {
		return err
	}
	p.windows = append(p.windows, window{mem: ecam[:32<<15]})
	for slot := range 32 {
		cfg := ecam[slot<<15:]
		if load(cfg, 2) != 0x1af4 {
			continue
		}
		store(cfg[4:], 2, 6) // memory space, bus master
		for bar := 0x10; bar < 0x28; bar += 4 {
			v := load(cfg[bar:], 4)
			if v == 0 || v&1 != 0 {
				continue
			}
			at := v &^ 0xf
			if v&6 == 4 {
				bar += 4
				at |= load(cfg[bar:], 4) << 32
			}
			b, err := physical(at, 0x4000)
			if err != nil {
				return err
			}
			p.windows = append(p.windows, window{mem: b})
			common, bells := capability(cfg, b, 1), capability(cfg, b, 2)
			if common == nil || bells == nil {
				continue
			}
			set := func(f int, v uint64) { store(common[f&0xff:], f>>8, v) }
			step := load(cfg[capabilityAt(cfg, 2)+16:], 4) // notify_off_multiplier
			p.rings = append(p.rings, func() {
				store(cfg[4:], 2, 6)
				p.drive(set, pciFields)
				store(b[p.r.IntN(len(b)/4)*4:], 4, uint64(p.r.IntN(4))) // some doorbell
			}, func() {
				store(cfg[4:], 2, 6)
				p.feed(set, pciFields, func() uint64 { return load(common[0x18:], 2) }, func(q uint64) {
					set(pciFields.queueSel, q)
					if at := load(common[0x1e:], 2) * step; at+2 <= uint64(len(bells)) {
						store(bells[at:], 2, q)
					}
				})
			})
		}
	}
	if len(p.rings) == 0 {
		return fmt.Errorf("no virtio function found")
	}
	return nil
}

// VIRTIO 1.2, 4.1.4.3: the offset, and above it the width. The doorbell is
// elsewhere; writing queue_select in its place is harmless.
var pciFields = driveFields{1<<8 | 0x14, 4<<8 | 8, 4<<8 | 0xc, 2<<8 | 0x16, 2<<8 | 0x18, 2<<8 | 0x1c, 2<<8 | 0x16, [3][2]int{
	{4<<8 | 0x20, 4<<8 | 0x24}, {4<<8 | 0x28, 4<<8 | 0x2c}, {4<<8 | 0x30, 4<<8 | 0x34},
}}

// capabilityAt finds a structure's capability in configuration space, 0 without.
func capabilityAt(cfg []byte, kind uint64) uint64 {
	for c, hops := load(cfg[0x34:], 1), 0; c >= 0x40 && hops < 48; c, hops = load(cfg[c+1:], 1), hops+1 {
		if load(cfg[c:], 1) == 9 && load(cfg[c+3:], 1) == kind {
			return c
		}
	}
	return 0
}

// capability is the part of a BAR that a capability points to.
func capability(cfg, bar []byte, kind uint64) []byte {
	c := capabilityAt(cfg, kind)
	if c == 0 {
		return nil
	}
	if off := load(cfg[c+8:], 4); off+0x40 <= uint64(len(bar)) {
		return bar[off:]
	}
	return nil
}
