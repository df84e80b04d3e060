package steps

import (
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const pageSize = 4096

// maxImage bounds an executable; arguments and environment are most of it.
const maxImage = 16 << 20

// The executable's header (elf(5)): three segments to load.
const (
	headerSize  = 64
	segmentSize = 56
	segments    = 4
	codeAt      = headerSize + segments*segmentSize // in the file, and in its page
)

// part is a piece of the executable's file; what lies between two is zero.
type part struct {
	at   int
	text []byte
}

// image is the executable as a file.
func (p *Program) image(report int) ([]part, error) {
	if tableBase+len(p.table) > dataBase || len(p.table) > maxImage {
		return nil, errors.New("a program of too many steps; the configuration is too large")
	}
	const tableAt = pageSize
	dataAt := tableAt + (len(p.table)+pageSize-1)/pageSize*pageSize
	if dataAt+len(p.data) > maxImage {
		return nil, unix.E2BIG
	}
	p.finish(report)
	head := p.header(make([]byte, 0, pageSize), len(p.table), tableAt, dataAt)
	return []part{{0, append(head, machine[:]...)}, {tableAt, p.table}, {dataAt, p.data}}, nil
}

func (p *Program) header(out []byte, table, tableAt, dataAt int) []byte {
	const (
		executable, amd64    = 2, 62         // ET_EXEC, EM_X86_64
		load, stack          = 1, 0x6474e551 // PT_LOAD, PT_GNU_STACK
		runnable, changeable = 4 | 1, 4 | 2
	)
	le := binary.LittleEndian
	out = append(out, 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0) // 64 bits, little-endian
	out = le.AppendUint16(out, executable)
	out = le.AppendUint16(out, amd64)
	out = le.AppendUint32(out, 1)
	out = le.AppendUint64(out, codeBase+codeAt) // entry
	out = le.AppendUint64(out, headerSize)      // where the segments are
	out = le.AppendUint64(out, 0)               // no sections
	out = le.AppendUint32(out, 0)
	for _, n := range []uint16{headerSize, segmentSize, segments, 0, 0, 0} {
		out = le.AppendUint16(out, n)
	}
	segment := func(kind, flags uint32, at, addr, size int) {
		out = le.AppendUint32(out, kind)
		out = le.AppendUint32(out, flags)
		for _, n := range []int{at, addr, addr, size, size, pageSize} {
			out = le.AppendUint64(out, uint64(n))
		}
	}
	segment(load, runnable, 0, codeBase, codeAt+len(machine))
	segment(load, changeable, tableAt, tableBase, table)
	segment(load, changeable, dataAt, dataBase, max(len(p.data), 1))
	segment(stack, changeable, 0, 0, 0)
	return out
}

// file is the executable in a sealed memfd.
func (p *Program) file(report int) (*os.File, error) {
	parts, err := p.image(report)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("steps", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("steps", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "steps")
	for _, part := range parts {
		if err == nil {
			_, err = f.WriteAt(part.text, int64(part.at))
		}
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
