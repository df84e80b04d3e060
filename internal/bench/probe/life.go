package probe

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func lifeProbes() []Probe {
	return []Probe{
		{Name: "spawn-exec", Chapter: "life", Follows: "lmbench lat_proc exec", open: openSpawn},
		{Name: "fork", Chapter: "life", Follows: "lmbench lat_proc fork", open: func(string) (*bench, error) { return openFork(0) }},
		{Name: "fork-64m", Chapter: "life", Follows: "lmbench lat_proc fork", open: func(string) (*bench, error) { return openFork(64 << 20) }},
		{Name: "thread", Chapter: "life", open: openThread},
	}
}

// reap waits for a child that is to end with 0.
func reap(pid int) error {
	for {
		st, e := rawWait(pid)
		switch {
		case e == unix.EINTR:
		case e != 0:
			return os.NewSyscallError("wait4", e)
		case st != 0:
			return fmt.Errorf("child ended with status %#x", st)
		default:
			return nil
		}
	}
}

// openFork forks with so many bytes of memory touched.
func openFork(size int) (*bench, error) {
	end := func() {}
	if size > 0 {
		mem, err := anonymous(size, unix.MADV_NOHUGEPAGE)
		if err != nil {
			return nil, err
		}
		touch(mem)
		end = func() { _ = unix.Munmap(mem) }
	}
	return timed(func(n int) error {
		for range n {
			pid, e := rawFork()
			if e != 0 {
				return os.NewSyscallError("clone", e)
			}
			if pid == 0 {
				rawExit(0)
			}
			if err := reap(pid); err != nil {
				return err
			}
		}
		return nil
	}, end), nil
}

// openSpawn forks and executes a program of 10 KB.
func openSpawn(dir string) (*bench, error) {
	file := filepath.Join(dir, "true")
	if err := os.WriteFile(file, tinyProgram(), 0o755); err != nil { //nolint:gosec // a program
		return nil, err
	}
	path := cString(file + "\x00")
	argv, envp := &[2]*byte{&path[0]}, &[2]*byte{}
	return timed(func(n int) error {
		for range n {
			pid, e := rawFork()
			if e != 0 {
				return os.NewSyscallError("clone", e)
			}
			if pid == 0 {
				rawExec(path, argv, envp)
				rawExit(127)
			}
			if err := reap(pid); err != nil {
				return err
			}
		}
		return nil
	}, func() { _ = os.Remove(file) }), nil
}

// tinyProgram is a static ELF file for x86-64 that exits with 0.
func tinyProgram() []byte {
	const size, base, head = 10 << 10, 0x400000, 64 + 56
	code := []byte{0x31, 0xff, 0xb8, 231, 0, 0, 0, 0x0f, 0x05} // exit_group(0)
	le := binary.LittleEndian
	b := append([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, make([]byte, 9)...)
	b = le.AppendUint16(b, 2)  // an executable
	b = le.AppendUint16(b, 62) // x86-64
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, base+head) // entry
	b = le.AppendUint64(b, 64)        // program header
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // readable, executable
	for _, v := range []uint64{0, base, base, size, size, 0x1000} {
		b = le.AppendUint64(b, v)
	}
	return append(append(b, code...), make([]byte, size-head-len(code))...)
}

// openThread makes a thread that ends at once, and waits for it.
func openThread(string) (*bench, error) {
	t, err := newThreads(1)
	if err != nil {
		return nil, err
	}
	return timed(func(n int) error {
		restore, err := blockSignals()
		if err != nil {
			return err
		}
		defer restore()
		for range n {
			if err := t.start(0, nil, 0); err != nil {
				return err
			}
			if err := t.join(0); err != nil {
				return err
			}
		}
		return nil
	}, t.close), nil
}

// anonymous maps private memory with an madvise.
func anonymous(size, advice int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	_ = unix.Madvise(mem, advice) // a kernel without huge pages knows no advice about them
	return mem, nil
}

// touch writes to every page.
func touch(mem []byte) {
	for i := 0; i < len(mem); i += 4096 {
		mem[i] = 1
	}
}
