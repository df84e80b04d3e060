package machine

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/acpi"
	"github.com/hvctl/hvctl/internal/pci"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/blk"
)

// acpiGuest does what a guest's ACPI and drivers do, from the host: its kernel
// spins, so that Pause and Do have vCPUs to deal with.
type acpiGuest struct {
	*Machine
	t *testing.T
}

func newACPIGuest(t *testing.T, c Config) *acpiGuest {
	t.Helper()
	c.Transport = PCI
	m := newMachine(t, c, spin...)
	m.start(t, t.Context())
	eventually(t, "the guest counts", func() bool { return m.counted(t) > 0 })
	return &acpiGuest{m, t}
}

func (g *acpiGuest) in(off uint64) uint32 {
	var b [4]byte
	g.pio.Read(portSlots+off, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

func (g *acpiGuest) eject(bits uint32) {
	g.pio.Write(portSlots+acpi.PCIHotplugEject, binary.LittleEndian.AppendUint32(nil, bits))
}

// drive finds the virtio function in a slot and takes it.
func (g *acpiGuest) drive(slot int) {
	config := uint64(ecamBase) + uint64(slot)<<15
	read := func(at uint64) uint32 {
		var b [4]byte
		g.mmio.Read(at, b[:])
		return binary.LittleEndian.Uint32(b[:])
	}
	write := func(at uint64, n int, v uint32) {
		g.mmio.Write(at, binary.LittleEndian.AppendUint32(nil, v)[:n])
	}
	bar := uint64(read(config+0x14))<<32 | uint64(read(config+0x10)&^0xf)
	write(config+4, 2, 6)   // memory and bus master
	write(bar+0x14, 1, 3)   // ACKNOWLEDGE, DRIVER
	write(bar+0x08, 4, 1)   // the upper features:
	write(bar+0x0c, 4, 1)   // VERSION_1
	write(bar+0x14, 1, 3|8) // FEATURES_OK
	write(bar+0x14, 1, 15)  // DRIVER_OK
	var status [1]byte
	if g.mmio.Read(bar+0x14, status[:]); status[0] != 15 {
		g.t.Errorf("slot %d: device status %#x after DRIVER_OK", slot, status[0])
	}
}

// plugged are the devices that were plugged in.
func (g *acpiGuest) plugged() []DeviceInfo {
	return slices.DeleteFunc(g.DeviceList(), func(d DeviceInfo) bool { return !d.Plugged })
}

// serve answers the events of the controller until stop is closed: it takes what
// comes, and gives back what it is asked for.
func (g *acpiGuest) serve() (stop func()) {
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for ; ; runtime.Gosched() {
			select {
			case <-done:
				return
			default:
			}
			var ev [4]byte
			if g.pio.Read(portPower+offEvents, ev[:]); ev[0]&byte(acpi.GEDEventPCI) == 0 {
				continue
			}
			up, down := g.in(acpi.PCIHotplugUp), g.in(acpi.PCIHotplugDown)
			for slot := range pci.Slots {
				if up&(1<<slot) != 0 {
					g.drive(slot)
				}
			}
			if down != 0 {
				g.eject(down)
			}
		}
	}()
	return sync.OnceFunc(func() { close(done); <-over })
}

func diskFile(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func hotDisk(id, path string) Device {
	return Device{Kind: "blk", Args: virtio.Args{ID: id, Values: map[string]string{"path": path, "engine": "plain"}}}
}

// shortly is a time in which a guest that never answers has not.
func shortly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestDevicesComeAndGo(t *testing.T) {
	g := newACPIGuest(t, Config{CPUs: 2, Devices: []Device{{Kind: "rng", Args: virtio.Args{ID: "rng0"}}}})
	t.Cleanup(g.serve())
	disk := diskFile(t, "a")
	round := func() {
		t.Helper()
		if err := g.Plug(t.Context(), hotDisk("data", disk)); err != nil {
			t.Fatal(err)
		}
		if got := g.plugged(); !slices.Equal(got, []DeviceInfo{{"data", "blk", pci.Slots - hotSlots, true, true}}) {
			t.Fatalf("plugged in: %+v", got)
		}
		if g.Disk("data") == nil {
			t.Error("the disk is not found")
		}
		if _, ok := g.Counters()["data.read_ops_total"]; !ok {
			t.Error("the disk is not counted")
		}
		if err := g.CanSave(); !errors.Is(err, ErrPlug) || !strings.Contains(err.Error(), "data") {
			t.Errorf("CanSave: %v", err)
		}
		if err := g.Unplug(t.Context(), "data", false); err != nil {
			t.Fatal(err)
		}
		if got := g.plugged(); len(got) != 0 || g.Disk("data") != nil {
			t.Fatalf("still plugged in: %+v", got)
		}
		if _, ok := g.Counters()["data.read_ops_total"]; ok {
			t.Error("the disk is still counted")
		}
	}
	round()
	files, tasks := descriptors(t), runtime.NumGoroutine()
	for range 50 {
		round()
	}
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= tasks })
	if n := descriptors(t); n > files {
		t.Errorf("%d descriptors after 50 rounds, %d before", n, files)
	}
	d, err := blk.New(blk.Options{Path: disk}) // the lock is free
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := g.CanSave(); err != nil {
		t.Errorf("CanSave of a machine as it began: %v", err)
	}
}

func TestAGuestThatDoesNotAnswer(t *testing.T) {
	g := newACPIGuest(t, Config{})
	disk := diskFile(t, "a")
	if err := g.Plug(shortly(t), hotDisk("data", disk)); !errors.Is(err, ErrUntaken) || !strings.Contains(err.Error(), "never looked") {
		t.Errorf("Plug: %v", err)
	}
	if got := g.plugged(); len(got) != 0 {
		t.Errorf("left over: %+v", got)
	}
	if up := g.in(acpi.PCIHotplugUp); up != 0 {
		t.Errorf("told of %#x, which is gone", up)
	}

	// It looks, and has no driver: the device stays.
	ctx, cancel := context.WithCancel(t.Context())
	plugged := make(chan error, 1)
	go func() { plugged <- g.Plug(ctx, hotDisk("data", disk)) }()
	eventually(t, "the guest sees it", func() bool { return g.in(acpi.PCIHotplugUp) != 0 })
	cancel()
	if err := <-plugged; !errors.Is(err, ErrUntaken) || !strings.Contains(err.Error(), "slot 16") {
		t.Errorf("Plug: %v", err)
	}
	if got := g.plugged(); len(got) != 1 || got[0].InUse {
		t.Errorf("plugged in: %+v", got)
	}
	if err := g.Unplug(shortly(t), "data", false); !errors.Is(err, ErrUntaken) || !strings.Contains(err.Error(), "never looked") {
		t.Errorf("Unplug: %v", err)
	}
	if down := g.in(acpi.PCIHotplugDown); down != 0 {
		t.Errorf("asked for %#x, which is withdrawn", down)
	}
	ctx, cancel = context.WithCancel(t.Context())
	go func() { plugged <- g.Unplug(ctx, "data", false) }()
	eventually(t, "the guest sees it", func() bool { return g.in(acpi.PCIHotplugDown) != 0 })
	cancel()
	if err := <-plugged; !errors.Is(err, ErrUntaken) || !strings.Contains(err.Error(), "was asked") {
		t.Errorf("Unplug: %v", err)
	}
	if err := g.Unplug(shortly(t), "data", true); err != nil {
		t.Errorf("Unplug by force: %v", err)
	}
	if got := g.plugged(); len(got) != 0 {
		t.Errorf("left over: %+v", got)
	}
}

func TestWhatCannotBePlugged(t *testing.T) {
	disk := diskFile(t, "a")
	refused := func(m *Machine, d Device, want string) {
		t.Helper()
		if err := m.Plug(shortly(t), d); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Plug: %v, want %q", err, want)
		}
	}
	refused(newMachine(t, Config{}, spin...), hotDisk("data", disk), "--transport pci")
	g := newACPIGuest(t, Config{Devices: []Device{{Kind: "rng", Args: virtio.Args{ID: "rng0"}}}})
	refused(g.Machine, hotDisk("rng0", disk), `a device "rng0" already`)
	refused(g.Machine, hotDisk("irq", disk), `cannot be called "irq"`)
	refused(g.Machine, hotDisk("data", disk+"x"), "no such file")
	for id, want := range map[string]string{"rng0": "stays", "none": "no device"} {
		if err := g.Unplug(shortly(t), id, true); !errors.Is(err, ErrPlug) || !strings.Contains(err.Error(), want) {
			t.Errorf("Unplug %s: %v, want %q", id, err, want)
		}
	}
	if err := g.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused(g.Machine, hotDisk("data", disk), "resume it first")
	if err := g.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop := g.serve()
	for i := range hotSlots {
		if err := g.Plug(t.Context(), Device{Kind: "rng", Args: virtio.Args{ID: "hot" + string(rune('a'+i))}}); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	refused(g.Machine, hotDisk("data", disk), "no free slot")
	// Close gives back what is plugged in: the machine's cleanup would hang or fail.
}

// TestHostileSlots has the guest drive the controller at random while devices come
// and go: nothing fails, and nothing is left when it is over.
func TestHostileSlots(t *testing.T) {
	g := newACPIGuest(t, Config{CPUs: 2})
	disk := diskFile(t, "a")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	files, tasks := descriptors(t), runtime.NumGoroutine()
	done := make(chan struct{})
	var guests sync.WaitGroup
	for i := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, i))
		guests.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				b := binary.LittleEndian.AppendUint64(nil, r.Uint64())[:1<<r.IntN(4)]
				off := uint64(portSlots) + r.Uint64N(acpi.PCIHotplugSize+4)
				switch r.IntN(4) {
				case 0:
					g.pio.Read(off, b)
				case 1:
					g.pio.Write(off, b)
				case 2:
					g.eject(1 << (pci.Slots - 1 - r.IntN(hotSlots)))
				default:
					at := uint64(ecamBase) + uint64(pci.Slots-1-r.IntN(hotSlots))<<15
					g.mmio.Write(at+4, []byte{byte(r.Uint32()), 0})
				}
			}
		})
	}
	for i := range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		switch err := g.Plug(ctx, hotDisk("data", disk)); {
		case err == nil, errors.Is(err, ErrUntaken), errors.Is(err, ErrPlug):
		default:
			t.Errorf("Plug: %v", err)
		}
		if err := g.Unplug(ctx, "data", i%2 == 0); err != nil && !errors.Is(err, ErrUntaken) && !errors.Is(err, ErrPlug) {
			t.Errorf("Unplug: %v", err)
		}
		cancel()
		if i%8 == 0 {
			if err := errors.Join(g.Pause(t.Context()), g.Resume(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(done)
	guests.Wait()
	if err := g.Unplug(shortly(t), "data", true); err != nil && !errors.Is(err, ErrPlug) {
		t.Error(err)
	}
	eventually(t, "all is closed", func() bool { return len(g.plugged()) == 0 && runtime.NumGoroutine() <= tasks })
	if n := descriptors(t); n > files {
		t.Errorf("%d descriptors, %d before", n, files)
	}
	if g.ended.Load() || len(g.end) > 0 {
		t.Errorf("the machine ended: %v", <-g.end)
	}
}
