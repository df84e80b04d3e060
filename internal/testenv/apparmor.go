package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// LoadAppArmorProfile loads a profile that allows everything but the files
// denied, until the test ends. Call Require with Root and AppArmor first.
//
// The test host has no securityfs mounted, by which engines would see AppArmor
// and use it: it is mounted for the test.
func LoadAppArmorProfile(t testing.TB, name string, denied ...string) {
	t.Helper()
	const at = "/sys/kernel/security"
	if _, err := os.Stat(at + "/apparmor"); errors.Is(err, os.ErrNotExist) {
		if err := unix.Mount("securityfs", at, "securityfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
	var text strings.Builder
	fmt.Fprintf(&text, "profile %s flags=(attach_disconnected,mediate_deleted) {\nfile,\ncapability,\nnetwork,\nsignal,\nptrace,\numount,\nmount,\n", name)
	for _, f := range denied {
		fmt.Fprintf(&text, "deny %s rw,\n", f)
	}
	text.WriteString("}\n")
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	parser := func(flag string) {
		if out, err := exec.Command("apparmor_parser", "-K", flag, file).CombinedOutput(); err != nil {
			t.Errorf("apparmor_parser %s: %v: %s", flag, err, out)
		}
	}
	parser("-r")
	t.Cleanup(func() { parser("-R") })
}
