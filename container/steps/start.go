package steps

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// pidStep is what a report has instead of a step's number when its value is
// the process ID of a child.
const pidStep = 1<<32 - 1

// Error is a step that failed, with nowhere to go on.
type Error struct {
	What  string // of the step
	Errno unix.Errno
}

func (e *Error) Error() string { return e.What + ": " + e.Errno.Error() }

// Unwrap returns the Errno.
func (e *Error) Unwrap() error { return e.Errno }

// Started is a program that runs.
type Started struct {
	PID    int // of the process that runs it
	p      *Program
	report *os.File
}

// Start runs the program in a new process with the descriptors files, 0 and
// up. The one that follows is the program's own, for its reports; it is
// close-on-exec.
func (p *Program) Start(files []*os.File) (*Started, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	s := &Started{p: p, report: os.NewFile(uintptr(pipe[0]), "report")}
	w := os.NewFile(uintptr(pipe[1]), "report")
	defer w.Close()
	exe, err := p.file(len(files))
	if err != nil {
		s.Close()
		return nil, err
	}
	defer exe.Close()
	attr := &syscall.ProcAttr{Files: make([]uintptr, 0, len(files)+1)}
	top := len(files) + 1
	for _, f := range append(files[:len(files):len(files)], w) {
		attr.Files = append(attr.Files, f.Fd())
		top = max(top, int(f.Fd())+1)
	}
	// Where connecting the descriptors does not reach it (package spawn).
	high, err := unix.FcntlInt(exe.Fd(), unix.F_DUPFD_CLOEXEC, top+len(attr.Files)+2)
	if err != nil {
		s.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	defer unix.Close(high)
	s.PID, err = syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(high), []string{"hvctl-oci"}, attr)
	runtime.KeepAlive(files)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("start a program of steps: %w", err)
	}
	return s, nil
}

// Next returns the next thing that the program reports: a child's process ID,
// or its failure (*Error). io.EOF means that nobody is left who could report:
// every process of it has ended or executes another program.
func (s *Started) Next() (child int, err error) {
	var rec [reportSize]byte
	if _, err := io.ReadFull(s.report, rec[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("a report was cut short")
		}
		return 0, err
	}
	n, value := binary.LittleEndian.Uint32(rec[:]), binary.LittleEndian.Uint32(rec[4:])
	switch {
	case n == pidStep:
		return int(value), nil
	case int(n) < len(s.p.steps):
		return 0, &Error{s.p.steps[n].what, unix.Errno(value)}
	}
	return 0, fmt.Errorf("a report of step %d, there are %d", n, len(s.p.steps))
}

// Close frees the report.
func (s *Started) Close() { s.report.Close() }
