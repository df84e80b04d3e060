package machine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/acpi"
	"github.com/hvctl/hvctl/internal/boot"
	"github.com/hvctl/hvctl/internal/bus"
	"github.com/hvctl/hvctl/internal/gdbstub"
	"github.com/hvctl/hvctl/internal/irq"
	"github.com/hvctl/hvctl/internal/legacy"
	"github.com/hvctl/hvctl/internal/metrics"
	"github.com/hvctl/hvctl/internal/pci"
	"github.com/hvctl/hvctl/kvm"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/vcpu"
	"github.com/hvctl/hvctl/virtio/mem"
)

// Machine is one virtual machine. Methods may be called from any goroutine,
// concurrently.
type Machine struct {
	cfg       Config
	sys       *kvm.System
	vm        *kvm.VM
	mem       *memory.Guest
	pio, mmio bus.Bus
	irqs      *irq.Controller
	devices   []attached
	pci       *pci.Bus     // nil without PCI
	hotplug   *hotplug     // nil without PCI
	cpus      []*vcpu.VCPU // all that there can be; those that are not plugged in stand still
	plugCPU   *cpuPlug     // nil where none can come
	memory    *mem.Device  // nil where no more can come
	serial    *legacy.Serial
	power     *power
	watchdog  *legacy.Watchdog // nil without
	platform  acpi.Platform
	metrics   metrics.Registry
	end       chan End    // the first reason to end
	ended     atomic.Bool // Run stops the vCPUs, or has
	debugger  atomic.Pointer[Debugger]
	host      hostStats
	traced    atomic.Bool // a Trace is running

	nextMapped  memory.GPA // where the next device's memory may begin; 0: behind RAM
	mappedSlots uint32

	mu      sync.Mutex  // guards what follows; held while vCPUs park and devices stop
	entered bool        // Run was called
	paused  atomic.Bool // set with mu held
	closed  bool
	blank   bool         // made for LoadState, which has not succeeded yet
	arrived bool         // LoadState has, and the guest has not run since
	held    bool         // a debugger has the vCPUs: they do not run
	only    []bool       // of those that run, the ones that a debugger lets; nil: all
	logging bool         // KVM keeps a dirty log
	clock   ClockUse     // by LoadState
	slow    *throttle    // nil: at full speed
	hot     []*hotDevice // plugged in while the guest ran, until they are closed
}

// New builds the machine and starts nothing. On error everything it made is
// released. Errors of configuration wrap ErrConfig, boot.ErrKernel,
// boot.ErrMemory or boot.ErrCmdline.
func New(cfg Config) (*Machine, error) {
	m := &Machine{end: make(chan End, 1)}
	err := cfg.check()
	m.cfg = cfg
	if err == nil {
		err = m.build()
	}
	if err != nil {
		m.dropUnattached()
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Machine) build() error {
	if m.cfg.Restore != nil {
		return m.buildBlank()
	}
	kernel, err := boot.OpenKernel(m.cfg.Kernel, m.cfg.KernelCache)
	if err != nil {
		return err
	}
	defer kernel.Close()
	if err := m.createVM(); err != nil {
		return err
	}
	m.cfg.Mark("vm")
	if err := m.attachAll(); err != nil {
		return err
	}
	if err := m.registerMetrics(); err != nil {
		return err
	}
	m.cfg.Mark("devices")
	entry, err := m.load(kernel)
	if err != nil {
		return err
	}
	m.cfg.Mark("kernel loaded")
	if err := m.startCPUs(&entry); err != nil {
		return err
	}
	m.cfg.Mark("vcpus")
	return nil
}

// buildBlank makes everything that LoadState needs, and nothing that it brings.
func (m *Machine) buildBlank() error {
	m.paused.Store(true)
	m.blank = true
	if err := m.createVM(); err != nil {
		return err
	}
	m.cfg.Mark("vm")
	if err := m.attachAll(); err != nil {
		return err
	}
	if err := m.registerMetrics(); err != nil {
		return err
	}
	for _, d := range m.devices { // their state is loaded into stopped devices
		if err := d.Stop(context.Background()); err != nil {
			return err
		}
	}
	m.cfg.Mark("devices")
	if err := m.startCPUs(nil); err != nil {
		return err
	}
	m.cfg.Mark("vcpus")
	return nil
}

// createVM makes the KVM machine, its RAM and its interrupt controllers.
func (m *Machine) createVM() (err error) {
	if m.cfg.KVM != nil {
		m.sys, err = kvm.Adopt(m.cfg.KVM)
	} else {
		m.sys, err = kvm.Open()
	}
	if err != nil {
		return err
	}
	if m.vm, err = m.sys.CreateVM(); err != nil {
		return err
	}
	if most, err := m.vm.CheckExtension(kvm.CapMaxVCPUs); err == nil && m.cfg.MaxCPUs > most {
		return fmt.Errorf("%w: %d vCPUs; KVM on this host allows %d", ErrConfig, m.cfg.MaxCPUs, most)
	}
	ram := memory.Options{Size: m.cfg.MemoryBytes, HugePages: m.cfg.HugePages}
	ram.Pluggable, ram.Block = m.cfg.pluggable()
	if m.cfg.Restore != nil {
		ram.From, ram.Adopt = m.cfg.Restore.RAM, m.cfg.Restore.Memory
	}
	m.mem, err = memory.New(ram)
	if err != nil {
		return err
	}
	for i, r := range m.mem.Regions() {
		if err := m.vm.SetMemorySlot(uint32(i), 0, uint64(r.GPA), r.Slot()); err != nil {
			return err
		}
	}
	if err := m.vm.SetIdentityMapAddr(identityBase); err != nil {
		return err
	}
	if err := m.vm.SetTSSAddr(tssBase); err != nil {
		return err
	}
	if err := m.vm.CreateIRQChip(); err != nil {
		return err
	}
	m.irqs = irq.New(m.vm)
	return nil
}

// load writes ACPI tables, kernel, initramfs and boot structures into RAM.
func (m *Machine) load(k *boot.Kernel) (boot.Entry, error) {
	tables, err := acpi.Build(m.platform)
	if err != nil {
		return boot.Entry{}, err
	}
	if err := tables.Write(m.mem); err != nil {
		return boot.Entry{}, err
	}
	if err := m.mem.WriteAt(resetCode, resetVector); err != nil {
		return boot.Entry{}, err
	}
	if err := errors.Join(m.writeGeneration(), m.writeVMClock()); err != nil {
		return boot.Entry{}, err
	}
	p := boot.Params{Kernel: k, Cmdline: m.cfg.Cmdline, RSDP: tables.RSDP, RNGSeed: make([]byte, 32)}
	_, _ = rand.Read(p.RNGSeed) // never fails (crypto/rand)
	for _, r := range m.mem.Regions() {
		if !r.Pluggable() { // its driver tells the kernel of that
			p.RAM = append(p.RAM, boot.Region{GPA: r.GPA, Size: r.Size})
		}
	}
	if m.platform.PCI != nil {
		p.Reserved = []boot.Region{{GPA: ecamBase, Size: ecamBuses << 20}}
	}
	for _, name := range m.cfg.Initrds {
		f, err := os.Open(name)
		if err != nil {
			return boot.Entry{}, fmt.Errorf("initramfs: %w", err)
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return boot.Entry{}, fmt.Errorf("initramfs: %w", err)
		}
		if !st.Mode().IsRegular() {
			return boot.Entry{}, fmt.Errorf("initramfs %s: %w: not a regular file", name, ErrConfig)
		}
		p.Initrds = append(p.Initrds, boot.Initrd{Name: name, R: f, Size: st.Size()})
	}
	return boot.Load(m.mem, p)
}

// Run lets the guest run and blocks until it ends or ctx does. It is called
// once. The vCPUs are gone when it returns, and the machine can only be closed;
// devices go on until then, so that what the guest has sent arrives.
func (m *Machine) Run(ctx context.Context) End {
	m.cfg.Mark("kernel entry")
	m.mu.Lock()
	m.entered = true
	if !m.paused.Load() {
		m.forgivePause()
		if err := m.resumeCPUs(); err != nil {
			m.fail(err)
		}
	}
	m.mu.Unlock()
	var end End
	select {
	case end = <-m.end:
	case <-ctx.Done():
		end = End{Reason: Killed, Err: context.Cause(ctx)}
		select {
		case end = <-m.end: // both: what the guest did counts
		default:
		}
	}
	m.lookAt(ctx, end)
	m.ended.Store(true)
	for _, c := range m.cpus {
		c.Stop()
	}
	if d := m.debugger.Load(); d != nil {
		d.tell(gdbstub.Stop{Ended: true})
	}
	return end
}

// lookAt gives those who want to see a guest that has come to an end by itself
// the time to do so: its debugger, when it has crashed, then Config.Ending.
func (m *Machine) lookAt(ctx context.Context, end End) {
	if end.Reason == Killed || end.Reason == Failed {
		return
	}
	if d := m.debugger.Load(); d != nil && (end.Reason == Crash || end.Reason == TripleFault) {
		d.crashed(ctx, end.CPU)
	}
	if m.cfg.Ending != nil {
		m.cfg.Ending(ctx, end)
	}
}

// PowerButton presses the ACPI power button. It reaches only a guest with a
// driver for it. The error wraps ErrEnded when there is no guest any more.
func (m *Machine) PowerButton() error {
	if m.ended.Load() {
		return ErrEnded
	}
	return m.power.event(acpi.GEDEventPowerButton)
}

// Input types p on the serial console; it blocks while the guest does not
// read, until Close. Without a serial port it drops p.
func (m *Machine) Input(p []byte) {
	if m.serial != nil {
		m.serial.Feed(p)
	}
}

// Pause stops every vCPU and every device at a point where nothing is half
// done. The guest's clocks go on, but its watchdogs are told not to count the
// time. Pause is idempotent, and works before Run, too. When ctx ends before
// the devices have stopped the machine runs on, and the error says which one
// did not; an access that a device is answering is waited for in any case. The
// error wraps ErrEnded when there is nothing to pause any more.
func (m *Machine) Pause(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed || m.ended.Load():
		return ErrEnded
	case m.paused.Load():
		return nil
	}
	m.unthrottle()
	if err := m.freeze(ctx); err != nil {
		return errors.Join(m.orEnded(err), m.orEnded(m.thaw()))
	}
	m.paused.Store(true)
	return nil
}

// freeze parks the vCPUs, then stops the devices.
func (m *Machine) freeze(ctx context.Context) error {
	if err := m.parkCPUs(); err != nil {
		return err
	}
	if m.watchdog != nil {
		m.watchdog.Pause()
	}
	for _, d := range m.all() {
		if err := d.Stop(ctx); err != nil {
			return fmt.Errorf("device %s: %w", d.id, err)
		}
	}
	return nil
}

// Paused tells whether the machine stands still. It never waits.
func (m *Machine) Paused() bool { return m.paused.Load() }

// Resume undoes Pause. It is idempotent. The error wraps ErrEnded when there is
// nothing to resume any more.
func (m *Machine) Resume(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed || m.ended.Load():
		return ErrEnded
	case !m.paused.Load():
		return nil
	case m.blank:
		return fmt.Errorf("%w: nothing has been restored into this machine", ErrRestore)
	}
	if m.arrived {
		if err := m.disrupt(); err != nil {
			return err
		}
		m.arrived = false
	}
	m.paused.Store(false)
	return m.orEnded(m.thaw())
}

// thaw undoes freeze, whole or half.
func (m *Machine) thaw() error {
	var errs []error
	for _, d := range m.all() {
		errs = append(errs, d.Start())
	}
	if m.watchdog != nil {
		m.watchdog.Resume()
	}
	if !m.entered {
		return errors.Join(errs...)
	}
	m.forgivePause()
	return errors.Join(append(errs, m.resumeCPUs())...)
}

// forgivePause tells the guest's watchdogs not to count the time for which its
// vCPUs did not run (api.rst, KVM_KVMCLOCK_CTRL).
func (m *Machine) forgivePause() {
	for _, c := range m.cpus {
		// EINVAL: the guest does not use kvmclock, or not yet.
		if err := c.Do((*kvm.VCPU).KVMClockCtrl); err != nil && !errors.Is(err, unix.EINVAL) {
			m.cfg.Log.Debug("watchdogs not told of a pause", "vcpu", c.Index(), "err", err)
		}
	}
}

func (m *Machine) resumeCPUs() error {
	if m.held {
		return nil
	}
	var errs []error
	for i, c := range m.cpus {
		if (m.only == nil || m.only[i]) && m.plugCPU.has(i) {
			errs = append(errs, c.Resume())
		}
	}
	return errors.Join(errs...)
}

// orEnded turns what follows from the machine's end into ErrEnded.
func (m *Machine) orEnded(err error) error {
	if errors.Is(err, vcpu.ErrStopped) {
		return ErrEnded
	}
	return err
}

// Close releases everything. Run must have returned, or never been called.
func (m *Machine) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	m.ended.Store(true)
	m.unthrottle()
	m.host.close()
	for _, c := range m.cpus {
		c.Stop()
	}
	m.mu.Unlock()
	m.closeHot()
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	if m.serial != nil {
		m.serial.Close()
	}
	if m.watchdog != nil {
		m.watchdog.Close()
	}
	errs = append(errs, m.unplace())
	isMapped := func(d attached) bool { _, ok := d.core.Device().(mapped); return ok }
	for _, last := range []bool{false, true} { // others may have buffers in their memory
		for _, d := range m.devices {
			if isMapped(d) == last {
				errs = append(errs, d.Close())
			}
		}
	}
	if m.vm != nil {
		errs = append(errs, m.vm.Close())
	}
	if m.sys != nil {
		errs = append(errs, m.sys.Close())
	}
	if m.mem != nil { // last: nothing may touch the RAM any more
		errs = append(errs, m.mem.Close())
	}
	return errors.Join(errs...)
}
