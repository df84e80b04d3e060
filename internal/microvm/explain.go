package microvm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
)

// tailLines is how much of the console an error quotes.
const tailLines = 12

// ending says in a few words how a guest that should have gone on ended. Guests
// with our agent never reboot on purpose: without a driver for the panic device
// that is how a panic looks, as panic=-1 is on their command line.
func ending(e machine.End) string {
	if err := reason(e); err != nil {
		return oneLine(err.Error())
	}
	switch e.Reason {
	case machine.Crash, machine.Reboot:
		return "the guest's kernel crashed"
	case machine.TripleFault:
		return fmt.Sprintf("the guest's kernel crashed (triple fault on CPU %d)", e.CPU)
	case machine.WatchdogFired:
		return "the guest's watchdog fired: it did not answer in time"
	case machine.PowerOff:
		return "the guest powered off"
	case machine.Killed:
		return "the VM was killed"
	default:
		return oneLine(fmt.Sprintf("the VM could not go on: %v", e.Err))
	}
}

// telling reports whether the console is likely to say why.
func telling(e machine.End) bool { return e.Reason != machine.Killed && e.Reason != machine.Failed }

// lostProcess says why a process was lost with its machine, or "" when that was
// asked for.
func lostProcess(e machine.End, console string) string {
	if e.Reason == machine.Killed {
		if reason(e) != nil {
			return ending(e)
		}
		return ""
	}
	msg := ending(e) + " before the process ended"
	if tail := lastLines(console, tailLines); tail != "" && telling(e) && e.Reason != machine.PowerOff {
		msg += "; its console ends with:\n" + tail
	}
	return msg
}

// explain makes one line of why boot gave up, with the console's end where that
// says more.
func (v *VM) explain(g *guest, err error) error {
	if _, ok := errors.AsType[*workload.StartError](err); ok {
		return err
	}
	select {
	case <-g.ended:
		err = fmt.Errorf("%s before its workload started", ending(g.end))
		if !telling(g.end) {
			return err
		}
	default:
		if !errors.Is(err, errSilent) {
			return err
		}
	}
	if tail := lastLines(v.console.Tail(), tailLines); tail != "" {
		return fmt.Errorf("%w; its console ends with:\n%s", err, tail)
	}
	return fmt.Errorf("%w; its console is empty: is it a kernel for this machine?", err)
}

// lastLines returns the last n lines of s that are not empty, fit to be
// printed: the guest chose them, and they may reach a terminal.
func lastLines(s string, n int) string {
	var lines []string
	for l := range strings.SplitSeq(strings.ReplaceAll(s, "\r", ""), "\n") {
		if l = strings.TrimRight(l, " \t"); l != "" {
			lines = append(lines, l)
		}
	}
	lines = lines[max(0, len(lines)-n):]
	for i, l := range lines {
		lines[i] = guestproto.CleanText(l)
	}
	return strings.Join(lines, "\n")
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }
