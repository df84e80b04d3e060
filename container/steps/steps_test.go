package steps

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// run starts a program with a pipe as its standard output and returns what it
// wrote there, what it reported and how it ended.
func run(t *testing.T, p *Program) (out string, children []int, st unix.WaitStatus, err error) {
	t.Helper()
	r, w, perr := os.Pipe()
	if perr != nil {
		t.Fatal(perr)
	}
	defer r.Close()
	s, serr := p.Start([]*os.File{os.Stdin, w, os.Stderr}, nil)
	w.Close()
	if serr != nil {
		t.Fatal(serr)
	}
	defer s.Close()
	for {
		told, nerr := s.Next()
		if errors.Is(nerr, io.EOF) {
			break
		}
		if nerr != nil {
			err = nerr
			continue
		}
		children = append(children, told.Child)
	}
	b, rerr := io.ReadAll(r)
	if rerr != nil {
		t.Fatal(rerr)
	}
	for _, pid := range append([]int{s.PID}, children...) {
		if _, werr := unix.Wait4(pid, &st, 0, nil); werr != nil {
			t.Fatal(werr)
		}
	}
	return string(b), children, st, err
}

func TestProgramRunsAnother(t *testing.T) {
	p := New()
	p.Call("execute", unix.SYS_EXECVE, uint64(p.String("/bin/sh")), uint64(p.Strings([]string{"sh", "-c", `echo "$0 $X"; exit 3`, "zero"})), uint64(p.Strings([]string{"X=1"})))
	out, _, st, err := run(t, p)
	if out != "zero 1\n" || err != nil || st.ExitStatus() != 3 {
		t.Errorf("it wrote %q, reported %v and ended with %v", out, err, st)
	}
}

func TestFailureIsReported(t *testing.T) {
	p := New()
	p.Call("this is passed over", unix.SYS_CLOSE, 1000).Optional()
	p.Call("open what is not there", unix.SYS_OPEN, uint64(p.String("/nope")), unix.O_RDONLY)
	_, _, st, err := run(t, p)
	var se *Error
	if !errors.As(err, &se) || se.What != "open what is not there" || !errors.Is(err, unix.ENOENT) {
		t.Errorf("it reported %v", err)
	}
	if st.ExitStatus() != 127 {
		t.Errorf("it ended with %v", st)
	}
}

// TestStoreCompareAndGo opens a file, writes with the descriptor, compares a
// word of its metadata and goes both ways.
func TestStoreCompareAndGo(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	p := New()
	var yes, no, end Label
	say := func(s string) { p.Call("write", unix.SYS_WRITE, 1, uint64(p.Bytes([]byte(s))), uint64(len(s))) }
	open := p.Call("open", unix.SYS_OPEN, uint64(p.String(name)), unix.O_CREAT|unix.O_RDWR, 0o600)
	write := p.Call("write", unix.SYS_WRITE, 0, uint64(p.String("hel")), 3)
	open.Store(write.Arg(0))
	file := p.Space(8)
	p.Call("open", unix.SYS_OPEN, uint64(p.String(name)), unix.O_WRONLY|unix.O_APPEND).Store(file)
	p.CallOn("write", unix.SYS_WRITE, file, uint64(p.String("lo")), 2)
	stat := p.Space(256)
	p.Call("stat", unix.SYS_STAT, uint64(p.String(name)), uint64(stat))
	const sizeAt, modeAt = 48, 24 // struct stat
	p.Compare("size", stat+sizeAt, 1<<64-1, 5, unix.EINVAL).Then(&yes)
	say("wrong size ")
	p.Here(&yes)
	p.Compare("type", stat+modeAt, unix.S_IFMT, unix.S_IFDIR, unix.ENOTDIR).Else(&no)
	say("a folder ")
	p.Here(&no)
	flag := p.Space(8)
	p.Set(flag, 7)
	p.Compare("flag", flag, 0xff, 7, unix.EINVAL).Then(&end)
	say("flag not set ")
	p.Here(&end)
	say("done")
	p.Fail("this is the end", unix.EDOM)
	out, _, _, err := run(t, p)
	if out != "done" || !errors.Is(err, unix.EDOM) {
		t.Errorf("it wrote %q and reported %v", out, err)
	}
}

func TestForkTellsTheChild(t *testing.T) {
	p := New()
	p.Fork("clone", unix.CLONE_PARENT|uint64(unix.SIGCHLD))
	p.Call("exit", unix.SYS_EXIT_GROUP, 9)
	_, children, st, err := run(t, p)
	if len(children) != 1 || err != nil || st.ExitStatus() != 9 {
		t.Errorf("it had children %v, reported %v, and the child ended with %v", children, err, st)
	}
}

func TestCountAndFailAgain(t *testing.T) {
	p := New()
	var again, end Label
	left := p.Bytes([]byte{3, 0, 0, 0, 0, 0, 0, 0})
	p.Call("open", unix.SYS_OPEN, uint64(p.String("/nope")), unix.O_RDONLY).Optional()
	p.Here(&again)
	p.Call("write", unix.SYS_WRITE, 1, uint64(p.String("x")), 1)
	p.Count(left, unix.EDOM).Then(&again).Else(&end)
	p.Fail("not reached", unix.EINVAL)
	p.Here(&end)
	p.FailAgain("opened before")
	out, _, _, err := run(t, p)
	if out != "xxx" || err == nil || err.Error() != "opened before: no such file or directory" {
		t.Errorf("it wrote %q and reported %v", out, err)
	}
}

func FuzzReadReport(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 1, 0, 3, 0, 'a', 'b', 'c'})
	f.Add([]byte{2, 0, 0, 0, 2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = ReadReport(bytes.NewReader(b))
	})
}

// TestFileCannotBeChanged tries what a container could through /proc/PID/exe.
func TestFileCannotBeChanged(t *testing.T) {
	p := New()
	p.Call("exit", unix.SYS_EXIT_GROUP, 0)
	f, err := p.file(3)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0}, 0); err == nil {
		t.Error("the executable could be written to")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("the executable could be cut")
	}
}

func TestMachineIsItsSource(t *testing.T) {
	for _, tool := range []string{"as", "objcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs binutils: %v", err)
		}
	}
	dir := t.TempDir()
	o, bin := filepath.Join(dir, "machine.o"), filepath.Join(dir, "machine.bin")
	for _, args := range [][]string{{"as", "-o", o, "testdata/machine.s"}, {"objcopy", "-O", "binary", "-j", ".text", o, bin}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	want, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, machine[:]) {
		t.Errorf("machine.go has\n%x, testdata/machine.s makes\n%x", machine, want)
	}
}
