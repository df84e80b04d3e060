package ociattack

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const corePattern = "/proc/sys/kernel/core_pattern"

// TestMaskedPathsIgnoreTheImagesNull: what masks a path is the kernel's null
// device, not what the image has at /dev/null (CVE-2025-31133).
func TestMaskedPathsIgnoreTheImagesNull(t *testing.T) {
	h := newHost(t)
	before := readFile(t, corePattern)
	const script = `stat -c masked=%t:%T /proc/version; echo pwned >/proc/version; cat /proc/version`
	for _, tc := range []struct {
		name  string
		place func(t *testing.T, path string)
	}{
		{"a symlink into proc", func(t *testing.T, path string) {
			if err := os.Symlink(corePattern, path); err != nil {
				t.Fatal(err)
			}
		}},
		{"a regular file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("fake"), 0o666); err != nil {
				t.Fatal(err)
			}
		}},
		{"another device", func(t *testing.T, path string) {
			if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 8))); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := h.bundle(script)
			b.without("/dev")
			b.without("/dev/pts")
			b.without("/dev/shm")
			tc.place(t, filepath.Join(b.rootfs, "dev/null"))
			r := b.run()
			if r.code == 0 && !strings.Contains(r.out, "masked=1:3") || strings.Contains(r.out, "pwned") || strings.Contains(r.out, "fake") {
				t.Errorf("%v", r)
			}
			if after := readFile(t, corePattern); after != before {
				if err := os.WriteFile(corePattern, []byte(before), 0o644); err != nil {
					t.Error(err)
				}
				t.Fatalf("the host's core pattern is now %q", after)
			}
		})
	}

	// The trap is one: a bind mount by name follows it.
	b := h.bundle("")
	b.symlink(corePattern, "dev/null")
	out, err := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c",
		`mount --bind "$1/dev/null" "$1/etc/passwd" && cat "$1/etc/passwd"`, "sh", b.rootfs).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != before {
		t.Errorf("a naive mask does not fall for it, so this proves nothing: %v, %s", err, out)
	}
}

// TestMaskedPathsWithARacingNull: the same while the image's file is being
// exchanged.
func TestMaskedPathsWithARacingNull(t *testing.T) {
	h := newHost(t)
	before := readFile(t, corePattern)
	b := h.bundle(`stat -c masked=%t:%T /proc/version; { echo pwned >/proc/version; } 2>/dev/null; true`)
	b.without("/dev")
	b.without("/dev/pts")
	b.without("/dev/shm")
	null, link := filepath.Join(b.rootfs, "dev/null"), filepath.Join(b.rootfs, "dev/other")
	lay := func() {
		// What is still there may stay.
		_ = unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
		_ = os.Symlink(corePattern, link)
	}
	lay()
	stop := swap(t, null, link, lay)
	defer stop()
	for range rounds(20) {
		if r := b.run(); r.code == 0 && !strings.Contains(r.out, "masked=1:3") {
			t.Errorf("%v", r)
		}
		if after := readFile(t, corePattern); after != before {
			if err := os.WriteFile(corePattern, []byte(before), 0o644); err != nil {
				t.Error(err)
			}
			t.Fatalf("the host's core pattern is now %q", after)
		}
	}
}

// TestDeviceFolderSymlinkStaysInside: devices and links of /dev are not made
// where the image's dev leads (CVE-2026-41579).
func TestDeviceFolderSymlinkStaysInside(t *testing.T) {
	h := newHost(t)
	for _, mounted := range []bool{true, false} {
		for _, relative := range []bool{true, false} {
			name := map[bool]string{true: "mounted", false: "of the image"}[mounted] + map[bool]string{true: ", relative", false: ", absolute"}[relative]
			t.Run(name, func(t *testing.T) {
				victim, changed := h.victim()
				b := h.bundle("echo ran")
				if !mounted {
					b.without("/dev")
					b.without("/dev/pts")
					b.without("/dev/shm")
				}
				target := victim
				if relative {
					target = "../../" + filepath.Base(victim)
				}
				b.symlink(target, "dev")
				if _, err := os.Stat(filepath.Join(b.rootfs, "dev/file")); err != nil {
					t.Fatalf("the symlink does not lead to the victim, so this proves nothing: %v", err)
				}
				b.run()
				if diff := changed(); diff != "" {
					t.Errorf("the victim changed; %s", diff)
				}
			})
		}
	}
}

// TestNoFilesOfOursInTheImage: a run leaves the root file system as it was,
// and follows no bait laid where a runtime might write (CVE-2025-24965).
func TestNoFilesOfOursInTheImage(t *testing.T) {
	h := newHost(t)
	victim, changed := h.victim()
	b := h.bundle("echo ran")
	for _, bait := range []string{".hvctl", ".hvctl-init", ".hvctl_config.json", ".pivot_root", ".old", "run", "etc/mtab", "etc/hosts", "etc/hostname", "etc/resolv.conf"} {
		b.symlink(filepath.Join(victim, "file"), bait)
	}
	before := tree(t, b.rootfs)
	if r := b.run(); r.code != 0 || !strings.Contains(r.out, "ran") {
		t.Fatalf("%v", r)
	}
	if after := tree(t, b.rootfs); after != before {
		t.Errorf("the image changed; before:\n%s\nafter:\n%s", before, after)
	}
	if diff := changed(); diff != "" {
		t.Errorf("the victim changed; %s", diff)
	}
}

// TestSetuidProgramGainsNothing: with noNewPrivileges a setuid program of the
// image runs as who started it; without, it does not.
func TestSetuidProgramGainsNothing(t *testing.T) {
	h := newHost(t)
	for _, noNew := range []bool{true, false} {
		b := h.bundle("")
		b.spec.Process.Args = []string{"/bin/id", "-u"}
		b.spec.Process.User.UID, b.spec.Process.User.GID = 1000, 1000
		b.spec.Process.NoNewPrivileges = noNew
		if err := os.Remove(filepath.Join(b.rootfs, "bin/id")); err != nil {
			t.Fatal(err)
		}
		b.copyIn(filepath.Join(b.rootfs, "bin/busybox"), "bin/id")
		if err := os.Chmod(filepath.Join(b.rootfs, "bin/id"), 0o755|os.ModeSetuid); err != nil {
			t.Fatal(err)
		}
		b.write("etc/busybox.conf", "[SUID]\nid = ssx 0.0\n")
		r := b.run()
		if root := strings.TrimSpace(r.out) == "0"; root == noNew {
			t.Errorf("noNewPrivileges %v: %v", noNew, r)
		}
	}
}
