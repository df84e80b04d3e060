package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestVolumes shares directories and a file of the host with a guest that does
// what programs do to files, and one that tries to get out.
func TestVolumes(t *testing.T) {
	h := newHost(t)
	for _, kernel := range []string{fast, "cloud"} { // built in, and as modules
		t.Run(kernel, func(t *testing.T) {
			h := h.in(t)
			dir := t.TempDir()
			if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, content := range map[string]string{"data/hello": "from the host\n", "ro/file": "fixed\n", "secret": "s\n", "conf": "k=v\n"} {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink("../secret", filepath.Join(dir, "data/out")); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(filepath.Join(dir, "data"), 0o777); err != nil {
				t.Fatal(err)
			}
			script := `
				cat /data/hello /etc/app.conf
				cat /data/out 2>&1
				(echo changed >>/etc/app.conf) 2>/dev/null || echo conf kept
				(echo x >/ro/file) 2>/dev/null || echo ro kept
				mount -o remount,rw /ro 2>/dev/null && (echo x >/ro/file) 2>/dev/null && echo ro changed
				mknod /data/mem c 1 1 2>&1
				cd /data && mkdir -p a/b && echo deep >a/b/c && mv a/b a/d && ln a/d/c hard && ln -s a/d/c soft && cat soft
				rm hard && truncate -s 1M big && stat -c %s big && dd if=/dev/zero of=big bs=64k count=40 conv=notrunc,fsync status=none && stat -c %s big
				setpriv --reuid 1234 --regid 5678 --clear-groups sh -c 'umask 027; echo mine >/data/mine; mkdir /data/dir'
				stat -c '%u:%g %a' mine dir
				flock mine echo locked
				ls /data | sort | tr '\n' ' '; ls /ro`
			got := h.ok("run", "--rm", "--network", "none", "--kernel", kernel, "--cap-add", "ALL", "-v", dir+"/data:/data",
				"-v", dir+"/ro:/ro:ro", "-v", dir+"/conf:/etc/app.conf:ro", "debian:bookworm", "sh", "-c", script)
			want := `from the host
k=v
cat: /data/out: No such file or directory
conf kept
ro kept
mknod: /data/mem: Operation not permitted
deep
1048576
2621440
1234:5678 640
1234:5678 750
locked
a big dir hello mine out soft file
`
			if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
			for name, want := range map[string]string{"data/mine": "mine\n", "data/a/d/c": "deep\n", "ro/file": "fixed\n", "conf": "k=v\n", "secret": "s\n"} {
				if b, err := os.ReadFile(filepath.Join(dir, name)); string(b) != want {
					t.Errorf("%s on the host: %q, %v; want %q", name, b, err, want)
				}
			}
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, "data/mine"), &st); err != nil || st.Uid != 1234 || st.Gid != 5678 || st.Mode&0o777 != 0o640 {
				t.Errorf("mine on the host: %d:%d %o, %v", st.Uid, st.Gid, st.Mode, err)
			}
		})
	}
	r := h.hvctl("run", "--rm", "-v", "/nonexistent:/data", "debian:bookworm", "true")
	if r.code == 0 || !strings.Contains(r.err, "/nonexistent: no such file or directory") || !strings.Contains(r.err, "make it first") {
		t.Errorf("a directory that is not there: exit %d, %s", r.code, r.err)
	}
}
