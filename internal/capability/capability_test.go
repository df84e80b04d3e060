package capability

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestNumbersAreTheKernels(t *testing.T) {
	for name, want := range map[string]uint{
		"CAP_CHOWN": unix.CAP_CHOWN, "CAP_SETPCAP": unix.CAP_SETPCAP, "CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_MKNOD": unix.CAP_MKNOD,
		"CAP_SYSLOG": unix.CAP_SYSLOG, "CAP_BPF": unix.CAP_BPF, "CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
	} {
		if n, ok := Number(name); !ok || n != want {
			t.Errorf("%s is %d, %v; want %d", name, n, ok, want)
		}
	}
	if len(Names) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names for %d capabilities", len(Names), unix.CAP_LAST_CAP+1)
	}
	if _, ok := Number("CAP_NOPE"); ok {
		t.Error("CAP_NOPE has a number")
	}
}
