package probe

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Disk reads or writes a block device, or a file, past the page cache, in pieces
// of size bytes one after the other. After a while for what holds it to a rate to
// settle it calls counting, and goes on for d. Ops are pieces.
func Disk(write bool, size int, path string, d time.Duration, counting func() error) (w Work, err error) {
	flags, one := unix.O_RDONLY, unix.Pread
	if write {
		flags, one = unix.O_WRONLY, unix.Pwrite
	}
	fd, err := unix.Open(path, flags|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return w, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	room, err := unix.Seek(fd, 0, io.SeekEnd)
	if err != nil {
		return w, os.NewSyscallError("lseek", err)
	}
	if size <= 0 || room < int64(size) {
		return w, fmt.Errorf("%s: %d bytes, less than one piece of %d", path, room, size)
	}
	buf, err := anonymous(size, unix.MADV_NOHUGEPAGE) // O_DIRECT wants whole pages
	if err != nil {
		return w, err
	}
	defer func() { _ = unix.Munmap(buf) }()
	at := int64(0)
	return settled(d, counting, func() (int, error) {
		n, err := one(fd, buf, at)
		if err == nil && n < size {
			err = io.ErrUnexpectedEOF
		}
		if at += int64(size); at+int64(size) > room {
			at = 0
		}
		return 1, err
	})
}

// settled does something for a quarter of d, calls counting, and does it for d.
func settled(d time.Duration, counting func() error, once func() (int, error)) (w Work, err error) {
	for begin := time.Now(); time.Since(begin) < d/4; {
		if _, err := once(); err != nil {
			return w, err
		}
	}
	if err := counting(); err != nil {
		return w, err
	}
	for begin := time.Now(); time.Since(begin) < d; w.Ns = time.Since(begin).Nanoseconds() {
		n, err := once()
		if err != nil {
			return w, err
		}
		w.Ops += n
	}
	return w, nil
}

// piece is what Pour and Drain move at once.
const piece = 16 << 10

// Drain receives from a server; Ops are bytes.
func Drain(address string, d time.Duration, counting func() error) (Work, error) {
	c, err := net.Dial("tcp4", address)
	if err != nil {
		return Work{}, err
	}
	defer c.Close()
	buf := make([]byte, piece)
	return settled(d, counting, func() (int, error) { return c.Read(buf) })
}

// Pour sends to a server until that hangs up.
func Pour(address string) error {
	c, err := net.Dial("tcp4", address)
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, piece)
	for {
		if _, err := c.Write(buf); err != nil {
			if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
				return nil
			}
			return err
		}
	}
}

// Gateway is the address of the default route.
func Gateway() (net.IP, error) {
	b, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return nil, err
	}
	return gateway(string(b))
}

// gateway reads /proc/net/route: interface, destination, gateway, flags, ..., each
// address in the machine's byte order.
func gateway(routes string) (net.IP, error) {
	for line := range strings.Lines(routes) {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != "00000000" {
			continue
		}
		b, err := hex.DecodeString(f[2])
		if err != nil || len(b) != net.IPv4len {
			return nil, fmt.Errorf("/proc/net/route: %q is no address", f[2])
		}
		ip := make(net.IP, net.IPv4len)
		binary.LittleEndian.PutUint32(ip, binary.BigEndian.Uint32(b))
		return ip, nil
	}
	return nil, errors.New("/proc/net/route has no default route")
}
