package etcfiles

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	passwd = "root:x:0:0::/root:/bin/sh\n# comment\nbroken:x\n1000:x:7:8::/seven:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\nnohome:x:5:5:::\nbig:x:4294967295:1::/:\n"
	group  = "root:x:0:\napp:x:1001:app\nextra:x:2000:root,app\nbad:x:-1:app\n"
)

func TestLookupUser(t *testing.T) {
	tests := []struct {
		user   string
		want   Creds
		errMsg string
	}{
		{user: "app", want: Creds{1000, 1001, []uint32{1001, 2000}, "/home/app"}},
		{user: "app:extra", want: Creds{1000, 2000, []uint32{2000}, "/home/app"}},
		{user: "app:77", want: Creds{1000, 77, []uint32{77}, "/home/app"}},
		{user: "1000", want: Creds{7, 8, []uint32{8}, "/seven"}}, // a user of that name comes first
		{user: "4242", want: Creds{4242, 0, []uint32{0}, "/"}},
		{user: "nohome", want: Creds{5, 5, []uint32{5}, "/"}},
		{user: "0", want: Creds{0, 0, []uint32{0, 2000}, "/root"}},
		{user: "ghost", errMsg: "unable to find user ghost"},
		{user: "app:ghost", errMsg: "unable to find group ghost"},
		{user: "-1", errMsg: "unable to find user -1"},
		{user: "4294967295", errMsg: "unable to find user"},
		{user: "4294967296", errMsg: "unable to find user"},
		{user: "big", errMsg: "unable to find user big"},
		{user: "", want: Creds{33, 34, []uint32{35}, "/"}},
	}
	for _, tt := range tests {
		t.Run(tt.user, func(t *testing.T) {
			var u specs.User
			if tt.user == "" {
				u = specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{35}}
			}
			c, err := Lookup(tt.user, u, []byte(passwd), []byte(group))
			if tt.errMsg != "" {
				if err == nil || !strings.Contains(err.Error(), tt.errMsg) {
					t.Fatalf("got %+v, %v", c, err)
				}
				return
			}
			if err != nil || c.UID != tt.want.UID || c.GID != tt.want.GID || !slices.Equal(c.Groups, tt.want.Groups) || c.Home != tt.want.Home {
				t.Errorf("got %+v, %v, want %+v", c, err, tt.want)
			}
		})
	}
}

func FuzzLookup(f *testing.F) {
	f.Add("app:extra", []byte(passwd), []byte(group))
	f.Fuzz(func(t *testing.T, user string, passwd, group []byte) {
		c, err := Lookup(user, specs.User{UID: 9, GID: 9}, passwd, group)
		if err == nil && (c.UID == 1<<32-1 || c.GID == 1<<32-1) {
			t.Errorf("%q gives an id that means no change", user)
		}
	})
}

func TestTreeNeverLeavesTheImage(t *testing.T) {
	dir := t.TempDir()
	rootDir := filepath.Join(dir, "root")
	outside := filepath.Join(dir, "outside")
	for _, d := range []string{rootDir + "/etc", outside} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"abs": outside, "rel": "../outside", "etc/resolv.conf": outside + "/resolv.conf", "etc/passwd": "/dev/zero", "proc": "/tmp"} {
		if err := os.Symlink(to, filepath.Join(rootDir, link)); err != nil {
			t.Fatal(err)
		}
	}
	tr, err := OpenTree(rootDir)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for _, name := range []string{"/abs/x", "rel/x", "../outside/x", "/../../outside/x"} {
		if f, err := tr.Touch(name); err == nil {
			f.Close()
		}
	}
	if err := tr.ReplaceEtc("resolv.conf", "nameserver 1.1.1.1\n"); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("files were made outside: %v", left)
	}
	if fi, err := os.Lstat(rootDir + "/etc/resolv.conf"); err != nil || !fi.Mode().IsRegular() {
		t.Errorf("resolv.conf: %v %v", fi, err)
	}
	if b, err := tr.ReadFile("/etc/passwd", 100); err == nil && len(b) > 0 {
		t.Error("a device was read as passwd")
	}
	if err := tr.RealDir("proc"); err == nil {
		t.Error("a link passed for /proc")
	}
}
