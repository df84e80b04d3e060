package machine

import (
	"time"

	"github.com/hvctl/hvctl/internal/acpi"
	"github.com/hvctl/hvctl/internal/bus"
	"github.com/hvctl/hvctl/internal/legacy"
)

// portWatchdog is where the watchdog's registers are.
const portWatchdog = 0x610

// attachWatchdog adds the watchdog, if there is to be one.
func (m *Machine) attachWatchdog() error {
	if !m.cfg.Watchdog {
		return nil
	}
	m.watchdog = legacy.NewWatchdog(func() { m.finish(End{Reason: WatchdogFired}) })
	m.platform.Watchdog = &acpi.Watchdog{
		Control: portWatchdog + legacy.WatchdogControl, Count: portWatchdog + legacy.WatchdogCount, Left: portWatchdog + legacy.WatchdogLeft,
		TickMs: uint32(legacy.WatchdogTick / time.Millisecond), Max: legacy.WatchdogMax,
	}
	return m.pio.Add(bus.Range{Base: portWatchdog, Size: legacy.WatchdogSize, Name: "watchdog", Handler: m.watchdog})
}
