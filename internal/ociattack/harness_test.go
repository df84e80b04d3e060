package ociattack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
)

// host is a runtime with a state folder of its own, and the folder that
// bundles of a test are in.
type host struct {
	t    *testing.T
	prog string
	root string // state
	dir  string // bundles, victims
}

var serial atomic.Int64

// newHost skips t where containers cannot be made, and removes at its end
// whatever containers are left.
func newHost(t *testing.T) *host {
	t.Helper()
	testenv.Require(t, testenv.Root, testenv.Cgroup, testenv.Busybox, testenv.OCI)
	prog := os.Getenv("HVCTL_OCI")
	if prog == "" {
		prog = filepath.Join(os.Getenv("HVCTL_BIN"), "hvctl-oci")
	}
	// Users of a container's user namespace must get in, which t.TempDir denies.
	dir, err := os.MkdirTemp("", "ociattack-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, prog: prog, root: filepath.Join(dir, "state"), dir: dir}
	t.Cleanup(func() {
		entries, _ := os.ReadDir(h.root)
		for _, e := range entries {
			if e.IsDir() {
				h.do("delete", "--force", e.Name())
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	return h
}

// in is the host as seen by a subtest.
func (h *host) in(t *testing.T) *host { return &host{t, h.prog, h.root, h.dir} }

// result is how a command ended.
type result struct {
	out, err string
	code     int
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.code, r.out, r.err)
}

// do runs the runtime and returns how it ended.
func (h *host) do(args ...string) result {
	h.t.Helper()
	return h.doWith(nil, args...)
}

// doWith is do with a change to the command, such as more descriptors.
//
// Output goes to files, not pipes: what a container keeps open must not make
// this wait.
func (h *host) doWith(change func(*exec.Cmd), args ...string) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, h.prog, append([]string{"--root", h.root}, args...)...)
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(h.dir, "output")
		if err != nil {
			h.t.Fatal(err)
		}
		defer os.Remove(f.Name())
		defer f.Close()
		files[i] = f
	}
	c.Stdout, c.Stderr = files[0], files[1]
	if change != nil {
		change(c)
	}
	err := c.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil {
		h.t.Errorf("%s: no end within a minute", strings.Join(args, " "))
	} else if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	var text [2]string
	for i, f := range files {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			h.t.Fatal(err)
		}
		text[i] = string(b)
	}
	return result{text[0], text[1], c.ProcessState.ExitCode()}
}

// bundle is a busybox root file system with a configuration.
type bundle struct {
	h      *host
	dir    string
	rootfs string
	spec   *specs.Spec
}

// bundle makes a new bundle whose process is a shell with this script.
func (h *host) bundle(script string) *bundle {
	h.t.Helper()
	dir := filepath.Join(h.dir, fmt.Sprintf("bundle%d", serial.Add(1)))
	b := &bundle{h: h, dir: dir, rootfs: filepath.Join(dir, "rootfs"), spec: newSpec("/bin/sh", "-c", script)}
	for _, d := range []string{"bin", "dev", "etc", "proc", "root", "sys", "tmp", "mnt"} {
		if err := os.MkdirAll(filepath.Join(b.rootfs, d), 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		h.t.Fatal(err)
	}
	b.copyIn(busybox, "bin/busybox")
	for applet := range strings.FieldsSeq(applets) {
		b.symlink("busybox", "bin/"+applet)
	}
	b.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
	b.write("etc/group", "root:x:0:\nuser:x:1000:\n")
	return b
}

const applets = "sh cat ls ln id sleep true false echo mount umount mkdir grep stat readlink dd head tail kill touch tr wc sort seq find env pwd rm od tty cut"

func (b *bundle) copyIn(from, to string) {
	b.h.t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		b.h.t.Fatal(err)
	}
	b.put(to, data, 0o755)
}

func (b *bundle) write(name, content string) { b.put(name, []byte(content), 0o644) }

func (b *bundle) put(name string, data []byte, mode os.FileMode) {
	b.h.t.Helper()
	if err := os.WriteFile(filepath.Join(b.rootfs, name), data, mode); err != nil {
		b.h.t.Fatal(err)
	}
}

// symlink replaces what is at name.
func (b *bundle) symlink(target, name string) {
	b.h.t.Helper()
	path := filepath.Join(b.rootfs, name)
	if err := os.RemoveAll(path); err != nil {
		b.h.t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		b.h.t.Fatal(err)
	}
}

// save writes config.json.
func (b *bundle) save() {
	b.h.t.Helper()
	data, err := json.Marshal(b.spec)
	if err != nil {
		b.h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "config.json"), data, 0o644); err != nil {
		b.h.t.Fatal(err)
	}
}

// run runs the bundle to its end.
func (b *bundle) run() result { return b.runWith(nil) }

// runWith is run with a change to the command and more flags.
func (b *bundle) runWith(change func(*exec.Cmd), flags ...string) result {
	b.h.t.Helper()
	b.save()
	args := append([]string{"run", "--bundle", b.dir}, flags...)
	return b.h.doWith(change, append(args, newID())...)
}

// start creates and starts the bundle and returns the container's ID.
func (b *bundle) start() string {
	b.h.t.Helper()
	b.save()
	id := newID()
	b.h.ok("create", "--bundle", b.dir, id)
	b.h.ok("start", id)
	return id
}

func newID() string { return fmt.Sprintf("attack-%d-%d", os.Getpid(), serial.Add(1)) }

// ok is do that fails the test unless the exit status is 0.
func (h *host) ok(args ...string) string {
	h.t.Helper()
	r := h.do(args...)
	if r.code != 0 {
		h.t.Fatalf("%s: %v", strings.Join(args, " "), r)
	}
	return r.out
}

// pid returns the process ID of a container's first process.
func (h *host) pid(id string) int {
	h.t.Helper()
	var s specs.State
	if err := json.Unmarshal([]byte(h.ok("state", id)), &s); err != nil {
		h.t.Fatal(err)
	}
	return s.Pid
}

// victim makes a folder outside of any bundle whose content must not change,
// and returns its path and what tells whether it did.
func (h *host) victim() (dir string, changed func() string) {
	h.t.Helper()
	dir = filepath.Join(h.dir, fmt.Sprintf("victim%d", serial.Add(1)))
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("precious\n"), 0o644); err != nil {
		h.t.Fatal(err)
	}
	before := tree(h.t, dir)
	return dir, func() string {
		if after := tree(h.t, dir); after != before {
			return fmt.Sprintf("before:\n%safter:\n%s", before, after)
		}
		return ""
	}
}

// tree lists a folder with types, modes and the contents of small files.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %o %d %d %x", strings.TrimPrefix(path, dir), st.Mode, st.Uid, st.Gid, st.Rdev)
		switch {
		case d.Type().IsRegular() && st.Size < 1024:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", data)
		case d.Type().IsRegular():
			fmt.Fprintf(&b, " %d bytes", st.Size)
		case d.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " -> %s", target)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// eventually waits until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within 30 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond) // between looks, not to let time pass
	}
}

// thinned says whether to leave out case i of many that do not depend on the
// kernel: in the emulated test host every fifth is enough.
func thinned(i int) bool { return os.Getenv("TESTHOST") == "emulated" && i%5 != 0 }

// rounds is how often a race is run: less in the emulated test host, where
// everything takes ten times as long.
func rounds(n int) int {
	if os.Getenv("TESTHOST") == "emulated" {
		return max(n/10, 2)
	}
	return n
}

// readFile returns a file's content, trimmed.
func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(b))
}
