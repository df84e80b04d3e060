package seal

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

// TestCannotBeWritten tries what a container's root could: open what
// /proc/PID/exe leads to for writing.
func TestCannotBeWritten(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for name, open := range map[string]func() (*os.File, error){"overlay": overlay, "memfd": memfd} {
		t.Run(name, func(t *testing.T) {
			f, err := open()
			if name == "overlay" && errors.Is(err, unix.EINVAL) {
				t.Skip("this kernel makes no overlay through its new mount interface (Linux 6.5 does): Self takes the memfd here")
			}
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			w, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_WRONLY, 0)
			if err == nil {
				_, err = unix.Write(w, []byte("x"))
				unix.Close(w)
			}
			if !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ETXTBSY) {
				t.Errorf("writing gave %v", err)
			}
		})
	}
}
