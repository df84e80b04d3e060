package cgroup

import (
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// write writes value to a control file in one write(2), which is what the
// kernel parses as one request.
func write(dir, file, value string) error {
	f, err := openControl(dir, file)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeTo(f, value)
}

// openControl opens a control file for writeTo.
func openControl(dir, file string) (*os.File, error) {
	name := path.Join(dir, file)
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// writeTo is write to a file that is open.
func writeTo(f *os.File, value string) error {
	for {
		_, err := unix.Write(int(f.Fd()), []byte(value))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &os.PathError{Op: fmt.Sprintf("write %q to", value), Path: f.Name(), Err: err}
		}
		return nil
	}
}

// maxRead bounds what is read of one control file.
const maxRead = 8 << 20

func read(dir, file string) (string, error) {
	f, err := os.Open(path.Join(dir, file))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRead))
	return string(b), err
}

// readUint reads one number; "max" and what exceeds 64 bits is MaxUint64, and
// v1's -1 is, too.
func readUint(dir, file string) (uint64, error) {
	s, err := read(dir, file)
	if err != nil {
		return 0, err
	}
	return parseUint(strings.TrimSpace(s))
}

func parseUint(s string) (uint64, error) {
	if s == "max" || s == "-1" {
		return math.MaxUint64, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil && strings.Trim(s, "0123456789") == "" && s != "" {
		return math.MaxUint64, nil
	}
	return n, err
}

// readFlat reads "key value" lines; lines that are not are left out.
func readFlat(dir, file string) (map[string]uint64, error) {
	s, err := read(dir, file)
	if err != nil {
		return nil, err
	}
	m := map[string]uint64{}
	for line := range strings.Lines(s) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := parseUint(strings.TrimSpace(v)); ok && err == nil {
			m[k] = n
		}
	}
	return m, nil
}

func exists(dir, file string) bool {
	return unix.Access(path.Join(dir, file), unix.F_OK) == nil
}
