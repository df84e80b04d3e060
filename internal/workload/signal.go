package workload

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The C library keeps the first two real-time signals for itself, so that
// SIGRTMIN, as every program knows it, is 34 and not the kernel's 32.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// ParseSignal reads a signal as people write it: "TERM", "SIGTERM", "sigterm",
// "15", "RTMIN+3". The error says what was not understood.
func ParseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > sigRTMax {
			return 0, fmt.Errorf("signal %d: out of range, use 1 to %d", n, sigRTMax)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	for _, base := range []struct {
		name string
		num  int
	}{{"SIGRTMIN", sigRTMin}, {"SIGRTMAX", sigRTMax}} {
		rest, ok := strings.CutPrefix(name, base.name)
		if !ok {
			continue
		}
		off := 0
		if rest != "" {
			v, err := strconv.Atoi(rest)
			if err != nil || (rest[0] != '+' && rest[0] != '-') {
				break
			}
			off = v
		}
		if n := base.num + off; off > -64 && off < 64 && n >= sigRTMin && n <= sigRTMax {
			return unix.Signal(n), nil
		}
	}
	return 0, fmt.Errorf("signal %q: unknown, use a name such as TERM or a number", s)
}
