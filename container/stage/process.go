package stage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/container/inroot"
	"github.com/hvctl/hvctl/container/plan"
	"golang.org/x/sys/unix"
)

// prepare does what can be done before the start, so that mistakes show at
// creation: labels, scheduling, the directory, and where the program is.
func (s *stage) prepare() (string, error) {
	p := s.plan.Process
	if p == nil {
		return "", nil
	}
	if err := s.labels(p); err != nil {
		return "", err
	}
	if err := scheduling(p); err != nil {
		return "", err
	}
	if err := enterDir(p); err != nil {
		return "", err
	}
	p.Env = withHome(p)
	return findProgram(p)
}

// labels sets the security label of the next execve. The file belongs to the
// very thread, and it is reached through a procfs of our own.
func (s *stage) labels(p *plan.Process) error {
	if p.AppArmor == "" && p.SELinux == "" {
		return nil
	}
	proc, err := inroot.OpenProc()
	if err != nil {
		return err
	}
	defer proc.Close()
	base := fmt.Sprintf("%d/task/%d/attr/", os.Getpid(), unix.Gettid())
	if p.AppArmor != "" {
		err := proc.Write(base+"apparmor/exec", "exec "+p.AppArmor)
		if errors.Is(err, fs.ErrNotExist) {
			err = proc.Write(base+"exec", "exec "+p.AppArmor)
		}
		if err != nil {
			return fmt.Errorf("process.apparmorProfile: %w", err)
		}
	}
	if p.SELinux != "" {
		if err := proc.Write(base+"exec", p.SELinux); err != nil {
			return fmt.Errorf("process.selinuxLabel: %w", err)
		}
	}
	return nil
}

// enterDir changes to the working directory and makes sure that it is in the
// container: a directory outside, reached through a descriptor somebody left
// open, has no path.
func enterDir(p *plan.Process) error {
	if err := unix.Chdir(p.Cwd); err != nil {
		return fmt.Errorf("process.cwd: %w", &fs.PathError{Op: "chdir", Path: p.Cwd, Err: err})
	}
	var b [unix.PathMax]byte
	n, err := unix.Getcwd(b[:])
	if err != nil || n < 1 || b[0] != '/' {
		return fmt.Errorf("process.cwd %s: it is not inside the container's root", p.Cwd)
	}
	return nil
}

// findProgram is where execve will find the program.
func findProgram(p *plan.Process) (string, error) {
	name := p.Args[0]
	if strings.Contains(name, "/") {
		return name, executable(name)
	}
	search := ""
	for _, kv := range p.Env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			search = v
		}
	}
	denied := false
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "."
		}
		err := executable(dir + "/" + name)
		if err == nil {
			return dir + "/" + name, nil
		}
		denied = denied || errors.Is(err, fs.ErrPermission)
	}
	if denied {
		return "", fmt.Errorf("exec: %q: permission denied", name)
	}
	return "", fmt.Errorf("exec: %q: executable file not found in $PATH", name)
}

func executable(name string) error {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return fmt.Errorf("exec: %q: %w", name, &fs.PathError{Op: "stat", Path: name, Err: err})
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fmt.Errorf("exec: %q: is a directory: %w", name, fs.ErrPermission)
	case st.Mode&0o111 == 0:
		return fmt.Errorf("exec: %q: %w", name, fs.ErrPermission)
	}
	return nil
}

// maxPasswd bounds what is read of an image's user table.
const maxPasswd = 1 << 20

// withHome adds HOME where the configuration has none: the user's in the
// image's table, else the root.
func withHome(p *plan.Process) []string {
	for _, kv := range p.Env {
		if strings.HasPrefix(kv, "HOME=") {
			return p.Env
		}
	}
	return append(p.Env, "HOME="+homeOf(p.UID))
}

func homeOf(uid uint32) string {
	fd, err := unix.Open("/etc/passwd", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return "/"
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxPasswd {
		return "/"
	}
	b := make([]byte, st.Size)
	n, err := unix.Read(fd, b)
	if err != nil {
		return "/"
	}
	want := strconv.FormatUint(uint64(uid), 10)
	for line := range strings.Lines(string(b[:n])) {
		f := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(f) >= 6 && f[2] == want && strings.HasPrefix(f[5], "/") {
			return f[5]
		}
	}
	return "/"
}
