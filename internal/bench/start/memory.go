package start

import (
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// peak is the largest resident size of `run`, in KiB. What the kernel says of a
// child counts the memory of the process that it was cloned from, us; so the
// clone is made by a process that has next to none.
func (r *runtime) peak() (int64, error) {
	p := steps.New()
	p.Fork("fork", unix.CLONE_PARENT|uint64(unix.SIGCHLD))
	args := []string{r.name, "--root", r.root, "run", "--bundle", r.bundle, r.sleeper + "-peak"}
	p.Call("execute "+r.path, unix.SYS_EXECVE, uint64(p.String(r.path)), uint64(p.Strings(args)), uint64(p.Strings(os.Environ())))
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	log, err := os.Create(filepath.Join(filepath.Dir(r.root), r.name+".peak"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	run, err := p.Start([]*os.File{null, null, log}, nil)
	if err != nil {
		return 0, err
	}
	defer run.Close()
	pid := 0
	for {
		told, err := run.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		pid = told.Child
	}
	var st unix.WaitStatus
	var ru unix.Rusage
	for _, pid := range []int{run.PID, pid} {
		for {
			if _, err := unix.Wait4(pid, &st, 0, &ru); err != unix.EINTR {
				break
			}
		}
	}
	if st.ExitStatus() != 0 {
		return 0, errors.New("run failed")
	}
	return ru.Maxrss, nil
}
