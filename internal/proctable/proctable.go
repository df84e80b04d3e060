package proctable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one line of the table.
type Process struct {
	PID     int           // in the innermost PID namespace it is in
	PPID    int           // of its parent there; 0: the parent is not listed
	UID     uint32        // effective, in the reader's user namespace
	State   string        // R, S, D, Z, T, ...
	Threads int           // in the process
	CPU     time.Duration // user and system time so far
	RSS     uint64        // resident memory in bytes
	Age     time.Duration // since it was started
	Command string        // its arguments, or its name in brackets
}

// MaxCommand bounds Process.Command in bytes.
const MaxCommand = 256

// userHZ is what the kernel counts a second as in /proc, on every machine we
// run on: USER_HZ.
const userHZ = 100

// Read describes pids, as this process sees them, in the order of their PIDs.
// Those that have ended are left out.
func Read(pids []int) ([]Process, error) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return nil, os.NewSyscallError("clock_gettime", err)
	}
	now := time.Duration(up.Nano())
	inner := make(map[int]int, len(pids)) // by outer PID
	parent := make(map[int]int, len(pids))
	var out []Process
	for _, pid := range pids {
		p, outerParent, err := read(pid, now)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		inner[pid], parent[p.PID] = p.PID, outerParent
		out = append(out, p)
	}
	for i := range out {
		out[i].PPID = inner[parent[out[i].PID]]
	}
	slices.SortFunc(out, func(a, b Process) int { return a.PID - b.PID })
	return out, nil
}

func read(pid int, now time.Duration) (p Process, parent int, err error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := readAll(dir + "/stat")
	if err != nil {
		return p, 0, err
	}
	status, err := readAll(dir + "/status")
	if err != nil {
		return p, 0, err
	}
	if err := p.parseStat(stat, now); err != nil {
		return p, 0, fmt.Errorf("%s/stat: %w", dir, err)
	}
	if parent, err = p.parseStatus(status, pid); err != nil {
		return p, 0, fmt.Errorf("%s/status: %w", dir, err)
	}
	cmdline, err := readAll(dir + "/cmdline")
	if err != nil {
		return p, 0, err
	}
	if c := command(cmdline); c != "" {
		p.Command = c
	}
	return p, parent, nil
}

// maxFile is more than any of these files has that is looked at.
const maxFile = 16 << 10

func readAll(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// parseStat reads /proc/PID/stat (proc_pid_stat(5)). The name, its second
// field, may hold anything.
func (p *Process) parseStat(b []byte, now time.Duration) error {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return errors.New("not understood")
	}
	// Three less than the numbers of the fields in the manual, for the first one
	// left is the third.
	const state, utime, stime, threads, start, rss = 0, 11, 12, 17, 19, 21
	f := strings.Fields(string(b[end+1:]))
	if len(f) <= rss {
		return errors.New("not understood")
	}
	num := func(i int) int64 {
		n, _ := strconv.ParseInt(f[i], 10, 64) // the kernel's own
		return n
	}
	const tick = time.Second / userHZ
	p.State = f[state]
	p.CPU = time.Duration(num(utime)+num(stime)) * tick
	p.Threads = int(num(threads))
	p.Age = max(0, now-time.Duration(num(start))*tick)
	p.RSS = uint64(max(0, num(rss))) * uint64(os.Getpagesize())
	p.Command = "[" + string(b[open+1:end]) + "]"
	return nil
}

// parseStatus reads /proc/PID/status and returns the parent's number.
func (p *Process) parseStatus(b []byte, pid int) (parent int, err error) {
	p.PID = pid
	for line := range strings.Lines(string(b)) {
		key, rest, _ := strings.Cut(line, ":")
		f := strings.Fields(rest)
		switch {
		case key == "PPid" && len(f) == 1:
			parent, err = strconv.Atoi(f[0])
		case key == "Uid" && len(f) == 4:
			var n uint64
			n, err = strconv.ParseUint(f[1], 10, 32)
			p.UID = uint32(n)
		case key == "NSpid" && len(f) > 0:
			p.PID, err = strconv.Atoi(f[len(f)-1])
		}
		if err != nil {
			return 0, err
		}
	}
	return parent, nil
}

// command is a command line, its arguments with blanks between.
func command(b []byte) string {
	b = bytes.TrimRight(b, "\x00")
	if len(b) > MaxCommand {
		b = b[:MaxCommand]
	}
	return strings.ReplaceAll(string(b), "\x00", " ")
}
