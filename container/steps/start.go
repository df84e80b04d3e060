package steps

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A report is a record, and the name of a step that failed.
const (
	recordSize, valueAt, kindAt = 8, 0, 4

	isFailure = 1 // of the step with that name; the value is the errno
	isPID     = 2 // of a child
	isEvent   = 3

	maxText = 1 << 10
)

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
	report *os.File
}

// Told is something that a program tells: one of the two.
type Told struct {
	Child int // process ID; 0: it is an event
	Event int
}

// Start runs the program in a new process with the descriptors files, 0 and
// up. The one that follows is the program's own, for its reports; it is
// close-on-exec. All others that the caller has are closed. sys says how the
// process is cloned; it may be nil.
func (p *Program) Start(files []*os.File, sys *syscall.SysProcAttr) (*Started, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	s := &Started{report: os.NewFile(uintptr(pipe[0]), "report")}
	w := os.NewFile(uintptr(pipe[1]), "report")
	defer w.Close()
	exe, err := p.file(len(files))
	if err != nil {
		s.Close()
		return nil, err
	}
	defer exe.Close()
	attr := &syscall.ProcAttr{Files: make([]uintptr, 0, len(files)+1), Sys: sys}
	top := len(files) + 1
	for _, f := range append(slices.Clip(files), w) {
		attr.Files = append(attr.Files, f.Fd())
		top = max(top, int(f.Fd())+1)
	}
	// Package syscall moves descriptors that are in the way of connecting, and
	// its pipe, to numbers above all of them, one after the other: beyond that.
	high, err := unix.FcntlInt(exe.Fd(), unix.F_DUPFD_CLOEXEC, top+len(attr.Files)+2)
	if err != nil {
		s.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	defer unix.Close(high)
	s.PID, err = syscall.ForkExec("/proc/self/fd/"+strconv.Itoa(high), []string{"hvctl-oci", "init"}, attr)
	runtime.KeepAlive(files)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("start a program of steps: %w", err)
	}
	return s, nil
}

// Next returns the next thing that the program tells, or its failure (*Error).
// io.EOF means that nobody is left who could: every process of it has ended or
// executes another program.
func (s *Started) Next() (Told, error) { return ReadReport(s.report) }

// ReadReport reads one report from wherever a program was told to send it.
func ReadReport(r io.Reader) (t Told, err error) {
	var rec [recordSize]byte
	if _, err := io.ReadFull(r, rec[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("a report was cut short")
		}
		return t, err
	}
	le := binary.LittleEndian
	value, kind, length := le.Uint32(rec[valueAt:]), le.Uint16(rec[kindAt:]), le.Uint16(rec[kindAt+2:])
	switch {
	case kind == isPID && length == 0:
		return Told{Child: int(value)}, nil
	case kind == isEvent && length == 0:
		return Told{Event: int(value)}, nil
	case kind != isFailure || length > maxText:
		return t, fmt.Errorf("a report of kind %d with %d bytes", kind, length)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		return t, errors.New("a report was cut short")
	}
	return t, &Error{string(text), unix.Errno(value)}
}

// Close frees the report.
func (s *Started) Close() { s.report.Close() }
