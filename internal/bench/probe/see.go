package probe

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Fact is one line of what a program sees of the world that it runs in.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// rlimits are those that programs ask for.
var rlimits = []struct {
	name string
	num  int
}{{"nofile", unix.RLIMIT_NOFILE}, {"nproc", unix.RLIMIT_NPROC}, {"core", unix.RLIMIT_CORE}, {"stack", unix.RLIMIT_STACK}, {"memlock", unix.RLIMIT_MEMLOCK}}

// See writes files below dir, computes, and tells what it sees. Facts that it
// cannot find out say why. With plant one of the digests is another one, for
// tests of the benchmark.
func See(dir string, plant bool) []Fact {
	var facts []Fact
	add := func(name string, v any, err error) {
		s := fmt.Sprint(v)
		if err != nil {
			s = "error: " + err.Error()
		}
		facts = append(facts, Fact{name, s})
	}
	add("args", strings.Join(os.Args[1:], " "), nil)
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		add("env "+k, v, nil)
	}
	cwd, err := os.Getwd()
	add("cwd", cwd, err)
	add("user", fmt.Sprintf("%d:%d, effective %d:%d", os.Getuid(), os.Getgid(), os.Geteuid(), os.Getegid()), nil)
	groups, err := os.Getgroups()
	add("groups", groups, err)
	mask := unix.Umask(0)
	unix.Umask(mask)
	add("umask", fmt.Sprintf("%#o", mask), nil)
	for _, l := range rlimits {
		var r unix.Rlimit
		err := unix.Getrlimit(l.num, &r)
		add("rlimit "+l.name, fmt.Sprintf("%d:%d", r.Cur, r.Max), err)
	}
	status(add)
	host, err := os.Hostname()
	add("hostname", host, err)
	var u unix.Utsname
	err = unix.Uname(&u)
	add("kernel", unix.ByteSliceToString(u.Release[:]), err)
	add("machine", unix.ByteSliceToString(u.Machine[:]), err)
	add("cpus", runtime.NumCPU(), nil)
	add("pid", os.Getpid(), nil)
	for fd := range 3 {
		_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		add(fmt.Sprintf("terminal %d", fd), err == nil, nil)
	}
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGKILL, unix.SIGSEGV, unix.SIGPIPE, unix.SIGTERM} {
		add(fmt.Sprintf("child ended by %d", int(sig)), childEndedBy(sig), nil)
	}
	digest, err := compute()
	if plant {
		digest = strings.Repeat("0", len(digest))
	}
	add("computed", digest, err)
	add("written", writeTree(filepath.Join(dir, "tree")), nil)
	digest, err = treeDigest(filepath.Join(dir, "tree"))
	add("tree written", digest, err)
	for _, d := range []string{"/etc/passwd", "/usr", "/bin", "/hvbench"} {
		digest, err := treeDigest(d)
		add("tree "+d, digest, err)
	}
	return facts
}

// childEndedBy is how the end of a child by a signal looks to its parent.
func childEndedBy(sig unix.Signal) string {
	c := exec.Command("/proc/self/exe", "die", strconv.Itoa(int(sig)))
	c.Env = []string{}
	if err := c.Run(); c.ProcessState == nil {
		return "error: " + err.Error()
	}
	ws := c.ProcessState.Sys().(syscall.WaitStatus) //nolint:errcheck // on Linux it is one
	if ws.Signaled() {
		return fmt.Sprintf("signal %d", int(ws.Signal()))
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}

// status are lines of /proc/self/status.
func status(add func(string, any, error)) {
	b, err := os.ReadFile("/proc/self/status")
	found := 0
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		switch k {
		case "SigBlk", "SigIgn", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp":
			add(k, strings.TrimSpace(v), nil)
			found++
		}
	}
	if found == 0 {
		add("status", "", fmt.Errorf("no /proc/self/status: %w", err))
	}
}

// compute hashes a sum of products: integer and floating point.
func compute() (string, error) {
	h := sha256.New()
	x, f := uint64(88172645463325252), 1.0
	for i := range 200000 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		f = f*1.0000001 + float64(x>>40)/float64(i+1)
	}
	_, err := fmt.Fprintf(h, "%d %x", x, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// writeTree makes files of several kinds.
func writeTree(dir string) string {
	steps := []func() error{
		func() error { return os.MkdirAll(filepath.Join(dir, "a", "b"), 0o750) },
		func() error { return os.WriteFile(filepath.Join(dir, "a", "file"), []byte("content\n"), 0o640) },
		func() error { return os.Chmod(filepath.Join(dir, "a", "file"), 0o4751) },
		func() error { return os.Chown(filepath.Join(dir, "a", "file"), 12, 34) },
		func() error { return os.Link(filepath.Join(dir, "a", "file"), filepath.Join(dir, "hard")) },
		func() error { return os.Symlink("a/file", filepath.Join(dir, "soft")) },
		func() error { return unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600) },
		func() error { return os.WriteFile(filepath.Join(dir, "a", "b", "big"), make([]byte, 1<<20), 0o600) },
		func() error { return os.Truncate(filepath.Join(dir, "a", "b", "big"), 1000) },
	}
	for i, s := range steps {
		if err := s(); err != nil {
			return fmt.Sprintf("step %d: %v", i, err)
		}
	}
	return fmt.Sprintf("%d steps", len(steps))
}

// treeDigest is over the names, modes, owners, sizes and contents below dir.
func treeDigest(dir string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: p, Err: err}
		}
		rel, _ := filepath.Rel(dir, p)
		fmt.Fprintf(h, "%q %o %d:%d", rel, st.Mode, st.Uid, st.Gid)
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(h, " %q", to)
		case d.Type().IsRegular():
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			fmt.Fprintf(h, " %d ", st.Size)
			if _, err := io.Copy(h, f); err != nil {
				return err
			}
		}
		fmt.Fprintln(h)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}
