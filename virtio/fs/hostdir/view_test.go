package hostdir_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/virtio/fs/hostdir"
	"golang.org/x/sys/unix"
)

// One directory is mounted three times in a container's tree, once read-only:
// whichever way the client goes first, it may write through two of them.
func TestTheMountDecidesWhetherAFileIsReadOnly(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for name, order := range map[string][]string{"read-only first": {"ro", "a", "b"}, "writable first": {"a", "b", "ro"}} {
		t.Run(name, func(t *testing.T) {
			fs, _ := share(t, hostdir.Options{Path: "tree"}, func(dir string) {
				write(t, filepath.Join(dir, "volume/sub/f"), "f")
				for _, m := range []string{"ro", "a", "b"} {
					at := filepath.Join(dir, "tree", m)
					if err := os.MkdirAll(at, 0o755); err != nil {
						t.Fatal(err)
					}
					if err := unix.Mount(filepath.Join(dir, "volume"), at, "", unix.MS_BIND, ""); err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() {
						if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
							t.Error(err)
						}
					})
				}
				if err := unix.Mount("", filepath.Join(dir, "tree/ro"), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
					t.Fatal(err)
				}
			})
			dirs, files := map[string]uint64{}, map[string]uint64{}
			for _, m := range order {
				sub := lookup(t, fs, lookup(t, fs, root, m).NodeId, "sub")
				dirs[m], files[m] = sub.NodeId, lookup(t, fs, sub.NodeId, "f").NodeId
			}
			for m, node := range files {
				var out fuse.OpenOut
				want := fuse.OK
				if m == "ro" {
					want = fuse.EROFS
				}
				if code := fs.Open(nil, &fuse.OpenIn{InHeader: *at(node), Flags: unix.O_RDWR}, &out); code != want {
					t.Errorf("open %s/sub/f for writing: %v, want %v", m, code, want)
				}
				var e fuse.EntryOut
				if code := fs.Mkdir(nil, &fuse.MkdirIn{InHeader: *at(dirs[m]), Mode: 0o755}, "in-"+m, &e); code != want {
					t.Errorf("mkdir in %s/sub: %v, want %v", m, code, want)
				}
			}
			// Locks, sockets and what is cached of a file are the client's, by node.
			if files["a"] != files["b"] {
				t.Error("one file, writable by two names, is two files to the client")
			}
			// A directory has one place in the client's tree.
			if dirs["a"] == dirs["b"] {
				t.Error("a directory that is mounted twice is one to the client, which would move it to and fro")
			}
		})
	}
}
