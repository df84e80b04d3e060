package inside

import (
	"context"
	"os"

	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is the one that a process in the guest is connected with through
// ours: the guest's does the editing and the signals, ours passes bytes.
type terminal struct {
	on  bool
	fd  int
	old *term.State
}

func newTerminal(wanted bool, f *os.File) (*terminal, error) {
	t := &terminal{on: wanted, fd: int(f.Fd())}
	if !wanted {
		return t, nil
	}
	var err error
	t.old, err = term.MakeRaw(t.fd)
	return t, err
}

// follow gives the process's terminal our size.
func (t *terminal) follow(p workload.Process) {
	if !t.on {
		return
	}
	if ws, err := unix.IoctlGetWinsize(t.fd, unix.TIOCGWINSZ); err == nil && ws.Col > 0 && ws.Row > 0 {
		_ = p.Resize(context.Background(), ws.Col, ws.Row) // it has ended
	}
}

func (t *terminal) restore() {
	if t.old != nil {
		_ = term.Restore(t.fd, t.old) // nobody is there to use it
	}
}
