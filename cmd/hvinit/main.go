package main

import (
	"flag"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// config is what the command line says; the defaults are those of a boot.
type config struct {
	transport string
	lower     string // directory in place of the image: tests
	base      string
	cgroup    string
	realBoot  bool
	bootNs    int64
}

func parseArgs(args []string) (config, error) {
	c := config{bootNs: uptime()}
	fs := flag.NewFlagSet("hvinit", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&c.transport, "transport", "vsock", "")
	fs.StringVar(&c.lower, "lower", "", "")
	fs.StringVar(&c.base, "base", "/hv", "")
	fs.StringVar(&c.cgroup, "cgroup", cgroupRoot+"/workload", "")
	err := fs.Parse(args)
	c.realBoot = c.lower == ""
	return c, err
}

func main() {
	// The heap stays small; collecting garbage while booting helps nobody.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(24 << 20)
	cfg, err := parseArgs(os.Args[1:])
	if err != nil {
		// The kernel hands on words of its command line that it does not
		// know; they are no reason not to boot.
		say(os.Stderr, "ignoring arguments: "+err.Error())
	}
	say(os.Stderr, run(cfg).Error())
	end(cfg.realBoot, 1)
}

// run serves the host until the machine ends. It returns only when it could
// not begin, with the reason.
func run(cfg config) error {
	if cfg.realBoot && os.Getpid() != 1 {
		return stateErr("this program is the init of a microVM; it does nothing elsewhere")
	}
	dial, err := newDialer(cfg.transport)
	if err != nil {
		return err
	}
	if err := mountOwn(cfg.realBoot); err != nil {
		return err
	}
	if ownPIDNS, err = os.Open("/proc/self/ns/pid"); err != nil {
		return err
	}
	loaded, vsock := make(chan struct{}), make(chan struct{})
	m := newManager(cfg, dial)
	m.loaded = loaded
	m.host = newServer(m, dial)
	go func() {
		defer close(loaded)
		var once sync.Once
		defer guard(cfg.realBoot)
		loadModules(initrdDir, func() { once.Do(func() { close(vsock) }) }, func(what string, err error) {
			say(os.Stderr, what+": "+err.Error())
		})
	}()
	// The group takes some milliseconds, and the host is not needed for it.
	m.group = sync.OnceValues(func() (*cgroup, error) { return newCgroup(cfg.cgroup) })
	go func() { _, _ = m.group() }()
	go m.reap()
	if cfg.realBoot {
		// Ctrl-Alt-Delete, where a machine has it, is SIGINT and no reset.
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
		go func() {
			say(os.Stderr, "processors that are plugged in stay offline: "+onlineCPUs("/sys").Error())
		}()
	}
	go m.onSignals()
	<-vsock
	m.host.serve()
	// serve ends when the machine is about to; powerOff does the rest.
	select {}
}

// onSignals takes the signals by which a kernel, or an operator inside the
// guest, asks PID 1 to stop the machine. Left alone they would end this
// process, and the kernel would panic.
func (m *manager) onSignals() {
	c := make(chan os.Signal, 4)
	signal.Notify(c, unix.SIGTERM, unix.SIGINT, unix.SIGPWR, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	for s := range c {
		if s == unix.SIGTERM || s == unix.SIGINT || s == unix.SIGPWR {
			_ = m.shutdown(guestproto.Shutdown{TimeoutMs: 10_000})
		}
	}
}
