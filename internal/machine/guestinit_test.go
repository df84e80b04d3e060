package machine

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// This file is the guest's side: the test binary is /init of the guests that
// guest_test.go boots. "hv.test=" on the kernel's command line says what it
// does; what it finds it says on the serial console as "HV key value".

var guestModes = map[string]func() error{
	"off":    func() error { return nil },
	"reboot": func() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) },
	"panic":  func() error { os.Exit(1); return nil }, // the kernel panics when init ends
	"view":   guestView,
	"talk":   guestTalk,
	"poke":   guestPoke,
	"vsock":  guestVsock,
	"chain":  guestChain,
}

func say(key string, value any) { fmt.Printf("HV %s %v\n", key, value) }

// guestMain is /init. It does not return.
func guestMain() {
	if err := guestSetup(); err != nil {
		say("error", err)
	}
	mode := word("hv.test")
	say("up", mode)
	if f := guestModes[mode]; f == nil {
		say("error", "no such mode")
	} else if err := f(); err != nil {
		say("error", err)
	}
	say("done", mode)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	os.Exit(0)
}

func guestSetup() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	list, _ := os.ReadFile("/hvctl/modules") // none: everything is built in
	for name := range strings.FieldsSeq(string(list)) {
		f, err := os.Open("/hvctl/" + name)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		_ = f.Close()
	}
	return nil
}

// word is the value of key on the kernel's command line.
func word(key string) string {
	b, _ := os.ReadFile("/proc/cmdline")
	for w := range strings.FieldsSeq(string(b)) {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			return v
		}
	}
	return ""
}

func text(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

// guestView tells what hardware the guest sees and tries it.
func guestView() error {
	say("cpus", text("/sys/devices/system/cpu/online"))
	for l := range strings.SplitSeq(text("/proc/meminfo"), "\n") {
		if f := strings.Fields(l); f[0] == "MemTotal:" {
			say("memory", f[1])
		}
	}
	devs, _ := filepath.Glob("/sys/bus/virtio/devices/*")
	for _, d := range devs {
		driver, _ := os.Readlink(d + "/driver")
		where, _ := filepath.EvalSymlinks(d)
		bus := "mmio"
		if strings.Contains(where, "pci") {
			bus = "pci"
		}
		say("device", bus+" "+text(d+"/device")+" "+filepath.Base(driver))
	}
	for _, try := range []struct {
		name string
		do   func() error
	}{{"rng", tryRNG}, {"disk", tryDisk}, {"memory", tryMemory}} {
		if err := try.do(); err != nil {
			say("error", try.name+": "+err.Error())
		}
	}
	sayTrouble()
	return nil
}

func tryRNG() error {
	f, err := os.Open("/dev/hwrng")
	if err != nil {
		return err
	}
	defer f.Close()
	a, b := make([]byte, 64), make([]byte, 64)
	if _, err := io.ReadFull(f, a); err != nil {
		return err
	}
	if _, err := io.ReadFull(f, b); err != nil {
		return err
	}
	say("rng", !bytes.Equal(a, b) && !bytes.Equal(a, make([]byte, 64)))
	return nil
}

const (
	diskMark  = "a disk of hvctl's tests"
	diskReply = "and the guest was here"
	replyAt   = 1 << 20
)

func tryDisk() error {
	f, err := os.OpenFile("/dev/vda", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, len(diskMark))
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != diskMark {
		return fmt.Errorf("read %q, %w", b, err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte(diskReply), 10000), replyAt); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	say("disk", text("/sys/block/vda/size")+" "+text("/sys/block/vda/serial"))
	return nil
}

// tryMemory touches memory and says whether some of it lies above 4 GiB.
func tryMemory() error {
	const size, page = 64 << 20, 4096
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	for i := 0; i < size; i += page {
		mem[i], mem[i+page-1] = byte(i>>12), byte(i>>20)
	}
	for i := 0; i < size; i += page {
		if mem[i] != byte(i>>12) || mem[i+page-1] != byte(i>>20) {
			return fmt.Errorf("byte %d changed", i)
		}
	}
	frames, err := framesOf(mem)
	if err != nil {
		return err
	}
	high := 0
	for _, f := range frames {
		if f >= 4<<30 {
			high++
		}
	}
	say("highpages", high)
	return unix.Munmap(mem)
}

// framesOf returns the physical addresses of mem's pages.
func framesOf(mem []byte) ([]uint64, error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at, err := strconv.ParseUint(strings.TrimPrefix(fmt.Sprintf("%p", mem), "0x"), 16, 64)
	if err != nil {
		return nil, err
	}
	b := make([]byte, len(mem)/4096*8)
	if _, err := f.ReadAt(b, int64(at/4096*8)); err != nil {
		return nil, err
	}
	frames := make([]uint64, len(b)/8)
	for i := range frames {
		frames[i] = binary.LittleEndian.Uint64(b[8*i:]) & (1<<55 - 1) << 12
	}
	return frames, nil
}

// sayTrouble repeats what the kernel complained of.
func sayTrouble() {
	s := bufio.NewScanner(strings.NewReader(kernelLog()))
	for s.Scan() {
		switch {
		case strings.Contains(s.Text(), "hw-vuln"): // about the host's processor
			continue
		case strings.Contains(s.Text(), "fpu__init_system_xstate"), strings.Contains(s.Text(), "XSAVE consistency"):
			// Below an emulated SVM, which does not intercept XSETBV, KVM
			// never learns which states the guest enabled.
			say("xstate", s.Text())
			continue
		}
		for _, w := range []string{"WARNING:", "BUG:", "ACPI Error", "ACPI BIOS", "soft lockup", " stall", "unstable", "nobody cared", "I/O error"} {
			if strings.Contains(s.Text(), w) {
				say("trouble", s.Text())
				break
			}
		}
	}
	say("clock", text("/sys/devices/system/clocksource/clocksource0/current_clocksource"))
}

// guestTalk answers the host on the serial line, hears the power button and
// watches the clock over a pause.
func guestTalk() error {
	tio, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return err
	}
	tio.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(0, unix.TCSETS, tio); err != nil {
		return err
	}
	say("ready", "echo")
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return err
	}
	say("echo", strings.ToUpper(strings.TrimSpace(line)))
	if err := hearButton(); err != nil {
		return err
	}
	gap, last := time.Duration(0), time.Now() // before: the host pauses us as soon as it reads this
	say("ready", "pause")
	for end := last.Add(60 * time.Second); gap < time.Second && last.Before(end); {
		time.Sleep(time.Millisecond)
		now := time.Now()
		gap, last = max(gap, now.Sub(last)), now
	}
	say("gap", gap.Milliseconds())
	sayTrouble()
	return nil
}

func hearButton() error {
	names, _ := filepath.Glob("/sys/class/input/event*/device/name")
	for _, n := range names {
		if text(n) != "Power Button" {
			continue
		}
		f, err := os.Open("/dev/input/" + strings.Split(n, "/")[4])
		if err != nil {
			return err
		}
		defer f.Close()
		say("ready", "button")
		ev := make([]byte, 24)
		for {
			if _, err := io.ReadFull(f, ev); err != nil {
				return err
			}
			kind, code, value := binary.LittleEndian.Uint16(ev[16:]), binary.LittleEndian.Uint16(ev[18:]), ev[20]
			if kind == 1 && value == 1 {
				say("key", code)
				break
			}
		}
		for l := range strings.SplitSeq(text("/proc/interrupts"), "\n") {
			if strings.Contains(strings.ToLower(l), "ged") {
				say("ged", strings.Join(strings.Fields(l), " "))
			}
		}
		return nil
	}
	return fmt.Errorf("no power button among %q", names)
}
