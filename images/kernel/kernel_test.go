package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// bzImage makes a file with the header of a bzImage.
func bzImage(version string, change func(b []byte)) []byte {
	b := make([]byte, 512*6+16*64)
	b[hdrSetupSects] = 5
	binary.LittleEndian.PutUint32(b[hdrSysSize:], 64)
	binary.LittleEndian.PutUint16(b[hdrBootFlag:], 0xaa55)
	copy(b[hdrMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[hdrProtocol:], 0x20f)
	b[hdrLoadFlags] = 1
	binary.LittleEndian.PutUint16(b[hdrXLoadFlags:], 0x7f)
	binary.LittleEndian.PutUint16(b[hdrVersionPtr:], 0x600)
	copy(b[0x800:], version+" (me@here) #1 SMP\x00")
	if change != nil {
		change(b)
	}
	return b
}

// vmlinux makes an ELF file with one segment that has the banner.
func vmlinux(banner string, change func(b []byte)) []byte {
	b := make([]byte, 8192)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 2)
	le.PutUint16(b[18:], 62)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	le.PutUint32(b[64:], 1)
	le.PutUint64(b[64+8:], 4096)
	le.PutUint64(b[64+32:], 4096)
	copy(b[5000:], banner)
	if change != nil {
		change(b)
	}
	return b
}

func write(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func openStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "kernels"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVersionIsRead(t *testing.T) {
	for name, b := range map[string][]byte{
		"bzImage":                      bzImage("6.1.0-41-cloud-amd64", nil),
		"elf":                          vmlinux("Linux version 6.1.0-41-cloud-amd64 (me@here)", nil),
		"elf with the words elsewhere": vmlinux("Linux version %s\x00Linux version 6.1.0-41-cloud-amd64 (me", nil),
	} {
		id, err := identify(bytes.NewReader(b), int64(len(b)))
		if err != nil || id.version != "6.1.0-41-cloud-amd64" {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
}

func TestBadKernelFilesGetOneClearMessage(t *testing.T) {
	put16 := func(at int, v uint16) func([]byte) { return func(b []byte) { le.PutUint16(b[at:], v) } }
	cases := []struct {
		name string
		b    []byte
		text string
		arch bool
	}{
		{"empty", nil, "empty", false},
		{"text", []byte("#!/bin/sh\n"), "neither a bzImage", false},
		{"gzip", []byte("\x1f\x8b\x08\x00abc"), "compressed", false},
		{"package", []byte("!<arch>\ndebian-binary"), "package", false},
		{"initramfs", []byte("070701000"), "initramfs", false},
		{"arm64", append(make([]byte, 0x38), "ARM\x64aaaaaaaa"...), "arm64", true},
		{"bzImage cut in the header", bzImage("6", nil)[:0x220], "truncated: 544 bytes, want at least 616", false},
		{"bzImage cut in the payload", bzImage("6", nil)[:4000], "truncated: 4000 bytes, want at least 4096", false},
		{"bzImage 32-bit", bzImage("6", put16(hdrXLoadFlags, 0)), "32-bit", true},
		{"bzImage old", bzImage("2", put16(hdrProtocol, 0x205)), "boot protocol 2.05", false},
		{"zImage", bzImage("6", func(b []byte) { b[hdrLoadFlags] = 0 }), "zImage", false},
		{"bzImage boot flag", bzImage("6", put16(hdrBootFlag, 0)), "damaged", false},
		{"ELF cut", vmlinux("x", nil)[:40], "truncated", false},
		{"ELF cut later", vmlinux("Linux version 6.1", nil)[:6000], "truncated: 6000 bytes, a segment ends at 8192", false},
		{"ELF 32-bit", vmlinux("x", func(b []byte) { b[4] = 1 }), "32-bit", true},
		{"ELF arm64", vmlinux("x", put16(18, 183)), "machine 183", true},
		{"ELF module", vmlinux("x", put16(16, 1)), "type 1", false},
		{"ELF program", vmlinux("hello", nil), "banner", false},
		{"ELF headers away", vmlinux("x", func(b []byte) { le.PutUint64(b[32:], 1<<63) }), "truncated", false},
	}
	s := openStore(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, filepath.Join(t.TempDir(), "vmlinuz"), c.b)
			_, err := s.Import(t.Context(), "bad", path, "")
			if !errors.Is(err, ErrNotKernel) || errors.Is(err, ErrArch) != c.arch || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := s.Import(t.Context(), "bad", "/nonexistent", ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := s.Import(t.Context(), "bad", t.TempDir(), ""); !errors.Is(err, ErrNotKernel) {
		t.Errorf("directory: %v", err)
	}
	assertEmpty(t, s)
}

// assertEmpty checks that failed imports have left nothing behind.
func assertEmpty(t *testing.T, s *Store) {
	t.Helper()
	es, err := os.ReadDir(s.dir)
	for _, e := range es {
		if e.Name() != lockFile {
			t.Errorf("left behind: %s", e.Name())
		}
	}
	if ks, listErr := s.List(); err != nil || listErr != nil || len(ks) != 0 {
		t.Errorf("%v, %v, %v", err, listErr, ks)
	}
}

func TestNamesAreChecked(t *testing.T) {
	s := openStore(t)
	for _, n := range []string{"", ".", "..", "a/b", ".lock", "-x", "a b", strings.Repeat("x", 65)} {
		if _, err := s.Import(t.Context(), n, "x", ""); !errors.Is(err, ErrBadName) {
			t.Errorf("%q: %v", n, err)
		}
	}
}

func TestImportListDefaultRemove(t *testing.T) {
	s := openStore(t)
	if _, err := s.Get(""); !errors.Is(err, ErrNotFound) {
		t.Errorf("empty store: %v", err)
	}
	file := write(t, filepath.Join(t.TempDir(), "vmlinuz"), bzImage("6.1.0", nil))
	for _, n := range []string{"b", "a"} {
		k, err := s.Import(t.Context(), n, file, "")
		if err != nil || k.Name != n || k.Version != "6.1.0" || k.Format != BzImage || k.ModulesDir != "" || k.Size != 4096 {
			t.Errorf("%+v, %v", k, err)
		}
	}
	if k, err := s.Get(""); err != nil || k.Name != "b" {
		t.Errorf("the first kernel is the default: %+v, %v", k, err)
	}
	if err := s.SetDefault(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.SetDefault(t.Context(), "nope"); !errors.Is(err, ErrNotFound) {
		t.Errorf("default nope: %v", err)
	}
	ks, err := s.List()
	if err != nil || len(ks) != 2 || ks[0].Name != "a" || !ks[0].Default || ks[1].Default {
		t.Errorf("%+v, %v", ks, err)
	}
	// Replacing keeps the name and changes the contents.
	other := write(t, filepath.Join(t.TempDir(), "vmlinuz"), bzImage("6.12.0", nil))
	if k, err := s.Import(t.Context(), "a", other, ""); err != nil || k.Version != "6.12.0" {
		t.Errorf("%+v, %v", k, err)
	}
	if err := s.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if k, err := s.Get(""); err != nil || k.Name != "b" {
		t.Errorf("the only kernel is the default: %+v, %v", k, err)
	}
	if k, err := s.Get(other); err != nil || k.Name != "" || k.Version != "6.12.0" || k.Path != other {
		t.Errorf("by file: %+v, %v", k, err)
	}
	if _, err := s.Get("nope"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown name: %v", err)
	}
}

func TestLeftoversAreSwept(t *testing.T) {
	s := openStore(t)
	if err := os.MkdirAll(filepath.Join(s.dir, tempPrefix+"add-123", "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(t.TempDir(), "vmlinuz"), bzImage("6.1.0", nil))
	if _, err := s.Import(t.Context(), "a", file, ""); err != nil {
		t.Fatal(err)
	}
	if m, _ := filepath.Glob(filepath.Join(s.dir, tempPrefix+"*")); len(m) != 0 {
		t.Errorf("left: %v", m)
	}
}

// ko makes a module with a .modinfo section.
func ko(info ...string) []byte {
	data := strings.Join(info, "\x00") + "\x00"
	names := "\x00.modinfo\x00.shstrtab\x00"
	b := make([]byte, 64)
	copy(b, "\x7fELF\x02\x01\x01")
	dataAt := len(b)
	b = append(b, data...)
	namesAt := len(b)
	b = append(b, names...)
	le.PutUint64(b[40:], uint64(len(b)))
	le.PutUint16(b[58:], 64)
	le.PutUint16(b[60:], 3)
	le.PutUint16(b[62:], 2)
	section := func(name uint32, at, n int) {
		h := make([]byte, 64)
		le.PutUint32(h, name)
		le.PutUint64(h[24:], uint64(at))
		le.PutUint64(h[32:], uint64(n))
		b = append(b, h...)
	}
	section(0, 0, 0)
	section(1, dataAt, len(data))
	section(10, namesAt, len(names))
	return b
}

func xzBytes(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(b)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstBytes(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}

// moduleTree makes a tree as a package has it, without depmod's files.
func moduleTree(t testing.TB) map[string][]byte {
	return map[string][]byte{
		"kernel/fs/erofs.ko":              ko("name=erofs", "depends=libcrc32c"),
		"kernel/lib/libcrc32c.ko.xz":      xzBytes(t, ko("name=libcrc32c", "softdep=pre: crc32c", "depends=")),
		"kernel/crypto/crc32c-intel.ko":   ko("name=crc32c_intel", "alias=crc32c", "depends="),
		"kernel/crypto/crc32c_generic.ko": ko("name=crc32c_generic", "alias=crc32c", "depends="),
		"kernel/virtio/virtio_net.ko.zst": zstBytes(t, ko("name=virtio_net", "depends=net-failover,virtio")),
		"kernel/net/net_failover.ko":      ko("name=net_failover", "depends=failover"),
		"kernel/net/failover.ko":          ko("name=failover", "depends="),
		"kernel/virtio/virtio.ko":         ko("name=virtio", "depends="),
		"modules.builtin":                 []byte("kernel/fs/ext4/ext4.ko\n"),
		"modules.builtin.modinfo":         []byte("ext4.alias=fs-ext4\x00ext4.license=GPL\x00"),
	}
}

func names(ms []Module) []string {
	var out []string
	for _, m := range ms {
		n := m.Name
		if m.Soft {
			n += "?"
		}
		out = append(out, n)
	}
	return out
}

func TestModulesInLoadOrder(t *testing.T) {
	dir := t.TempDir()
	for p, b := range moduleTree(t) {
		write(t, filepath.Join(dir, "lib/modules/6.1.0", p), b)
	}
	if err := os.Symlink("/usr/src", filepath.Join(dir, "lib/modules/6.1.0/build")); err != nil {
		t.Fatal(err)
	}
	s := openStore(t)
	file := write(t, filepath.Join(dir, "vmlinuz"), bzImage("6.1.0", nil))
	k, err := s.Import(t.Context(), "k", file, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(k.ModulesDir, "build")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the build link was copied: %v", err)
	}
	ms, err := Modules(k, []string{"erofs", "virtio-net", "ext4", "virtio"})
	want := []string{"crc32c_generic?", "libcrc32c", "erofs", "failover", "net_failover", "virtio", "virtio_net"}
	if err != nil || !slices.Equal(names(ms), want) {
		t.Errorf("got  %v, %v\nwant %v", names(ms), err, want)
	}
	for _, m := range ms {
		if b, err := readModule(m.Path); err != nil || !bytes.HasPrefix(b, []byte("\x7fELF")) {
			t.Errorf("%s: %v", m.Path, err)
		}
	}
	// A module that is wanted for itself is no longer soft.
	ms, err = Modules(k, []string{"erofs", "crc32c_generic"})
	if err != nil || !slices.Equal(names(ms), []string{"crc32c_generic", "libcrc32c", "erofs"}) {
		t.Errorf("%v, %v", names(ms), err)
	}
	ms, err = Modules(k, []string{"nope", "failover", "neither"})
	var unknown *UnknownModulesError
	if !errors.As(err, &unknown) || !errors.Is(err, ErrUnknownModule) || !slices.Equal(unknown.Names, []string{"nope", "neither"}) || !slices.Equal(names(ms), []string{"failover"}) {
		t.Errorf("%v, %v", names(ms), err)
	}
	if ms, err := Modules(&Kernel{}, []string{"erofs"}); err != nil || ms != nil {
		t.Errorf("kernel without modules: %v, %v", ms, err)
	}
}

func TestBuiltinAliasSatisfiesSoftDependency(t *testing.T) {
	x := &index{map[string]string{}, map[string][]string{}, map[string][]string{}, map[string]bool{}, map[string][]string{}}
	if err := errors.Join(x.parseDep("libcrc32c.ko:\ncrc32c-intel.ko:\n"), x.parseSoftdep("softdep libcrc32c pre: crc32c\n"), x.parseAlias("alias crc32c crc32c_intel\nalias crc* bad\n"), x.parseBuiltinInfo("crc32c_generic.alias=crc32c\x00")); err != nil {
		t.Fatal(err)
	}
	r := resolver{x: x, state: map[string]visit{}}
	if got := r.softTarget("crc32c"); got != "" {
		t.Errorf("got %q: the kernel has it built in", got)
	}
}

func TestModulesDepOrderAndCycles(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"a", "b", "c"} {
		write(t, filepath.Join(dir, n+".ko"), nil)
	}
	// depmod's order: a needs b, which needs c.
	write(t, filepath.Join(dir, depFile), []byte("a.ko: b.ko c.ko\nb.ko: c.ko\nc.ko:\n"))
	k := &Kernel{Name: "k", ModulesDir: dir}
	if ms, err := Modules(k, []string{"a"}); err != nil || !slices.Equal(names(ms), []string{"c", "b", "a"}) {
		t.Errorf("%v, %v", names(ms), err)
	}
	for text, why := range map[string]string{
		"a.ko: b.ko\nb.ko: a.ko\n": "depends on itself",
		"a.ko: z.ko\n":             "missing from modules.dep",
		"a.ko\n":                   "line 1",
		"../a.ko:\n":               "inside the directory",
		"/etc/a.ko:\n":             "inside the directory",
		"a.ko: passwd\n":           "not a module",
		"d/a.ko:\n":                "is not there",
	} {
		write(t, filepath.Join(dir, depFile), []byte(text))
		if _, err := Modules(k, []string{"a"}); !errors.Is(err, ErrBadModules) || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", text, err, why)
		}
	}
}

func TestModulesOfAnotherKernelAreRefused(t *testing.T) {
	s := openStore(t)
	file := write(t, filepath.Join(t.TempDir(), "vmlinuz"), bzImage("6.1.0", nil))
	for _, dir := range []string{t.TempDir(), "/nonexistent", file} {
		if _, err := s.Import(t.Context(), "k", file, dir); err == nil {
			t.Errorf("%s: accepted", dir)
		}
	}
	assertEmpty(t, s)
}

// deb makes a package from the files of its data.tar.
func deb(t testing.TB, ext string, pack func(testing.TB, []byte) []byte, files map[string][]byte) []byte {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for n, b := range files {
		if err := w.WriteHeader(&tar.Header{Name: n, Typeflag: tar.TypeReg, Size: int64(len(b)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := []byte(arMagic)
	member := func(name string, b []byte) {
		out = append(out, fmt.Sprintf("%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(b))...)
		out = append(out, b...)
		if len(b)%2 == 1 {
			out = append(out, '\n')
		}
	}
	member("debian-binary", []byte("2.0\n"))
	member("control.tar", []byte("odd"))
	member("data.tar"+ext, pack(t, data.Bytes()))
	return out
}

func plainBytes(_ testing.TB, b []byte) []byte { return b }

func debFiles(t testing.TB) map[string][]byte {
	files := map[string][]byte{
		"./boot/vmlinuz-6.1.0-9-cloud-amd64":    bzImage("6.1.0-9-cloud-amd64", nil),
		"./boot/config-6.1.0-9-cloud-amd64":     []byte("CONFIG_X=y\n"),
		"./boot/System.map-6.1.0-9-cloud-amd64": []byte("not needed"),
		"./usr/share/doc/x":                     []byte("not needed"),
	}
	for p, b := range moduleTree(t) {
		files["./usr/lib/modules/6.1.0-9-cloud-amd64/"+p] = b
	}
	return files
}

// fakeApt answers as apt does on a Debian host with one cloud kernel.
func fakeApt(t *testing.T, pkg []byte) runner {
	return func(_ context.Context, dir, name string, args ...string) ([]byte, error) {
		switch strings.Join(append([]string{name}, args...), " ") {
		case "apt-cache show --no-all-versions linux-image-cloud-amd64":
			return []byte("Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-9-cloud-amd64 (= 6.1.27-1), foo\n\n"), nil
		case "apt-get -q -o APT::Sandbox::User=root download linux-image-6.1.0-9-cloud-amd64=6.1.27-1":
			return nil, os.WriteFile(filepath.Join(dir, "linux-image.deb"), pkg, 0o644)
		}
		t.Errorf("unexpected call of %s %q", name, args)
		return nil, errors.New("unexpected")
	}
}

func TestFetchTakesKernelAndModules(t *testing.T) {
	for ext, pack := range map[string]func(testing.TB, []byte) []byte{"": plainBytes, ".xz": xzBytes, ".zst": zstBytes} {
		s := openStore(t)
		k, err := s.Fetch(t.Context(), FetchOptions{run: fakeApt(t, deb(t, ext, pack, debFiles(t)))})
		if err != nil {
			t.Fatal(err)
		}
		if k.Name != "6.1.0-9-cloud-amd64" || k.Version != k.Name || k.ConfigPath == "" || !k.Default || k.Origin != "linux-image-6.1.0-9-cloud-amd64 6.1.27-1" {
			t.Errorf("%+v", k)
		}
		if ms, err := Modules(k, []string{"erofs"}); err != nil || len(ms) != 3 {
			t.Errorf("%v, %v", names(ms), err)
		}
		if es, err := os.ReadDir(filepath.Join(s.dir, k.Name)); err != nil || len(es) != 4 {
			t.Errorf("kernel directory has %v, %v", es, err)
		}
	}
}

func TestBadPackagesLeaveNothing(t *testing.T) {
	whole := deb(t, ".xz", xzBytes, debFiles(t))
	escape := debFiles(t)
	escape["./lib/modules/6.1.0/../../../../../../tmp/hvctl-escaped"] = []byte("x")
	two := debFiles(t)
	two["./boot/vmlinuz-6.2"] = bzImage("6.2", nil)
	for name, c := range map[string]struct {
		b    []byte
		text string
	}{
		"not a package": {[]byte("hello"), "not a Debian package"},
		"truncated":     {whole[:len(whole)/2], "truncated"},
		"no data":       {whole[:8+60+4], "no data.tar"},
		"no kernel":     {deb(t, "", plainBytes, map[string][]byte{"./x": nil}), "no boot/vmlinuz"},
		"two kernels":   {deb(t, "", plainBytes, two), "two kernels"},
		"compression":   {deb(t, ".bz2", plainBytes, nil), "unknown way"},
	} {
		s := openStore(t)
		if _, err := s.Fetch(t.Context(), FetchOptions{run: fakeApt(t, c.b)}); !errors.Is(err, ErrBadPackage) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
		assertEmpty(t, s)
	}
	s := openStore(t)
	if _, err := s.Fetch(t.Context(), FetchOptions{run: fakeApt(t, deb(t, "", plainBytes, escape))}); err != nil {
		t.Errorf("a strange name that is not wanted: %v", err)
	}
	if _, err := os.Stat("/tmp/hvctl-escaped"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a package wrote outside its directory: %v", err)
	}
}

func TestFetchWithoutApt(t *testing.T) {
	s := openStore(t)
	t.Setenv("PATH", t.TempDir())
	if _, err := s.Fetch(t.Context(), FetchOptions{}); !errors.Is(err, ErrFetch) || !strings.Contains(err.Error(), "hvctl kernel import") {
		t.Errorf("got %v", err)
	}
	if _, err := s.Fetch(t.Context(), FetchOptions{Flavour: "rt"}); !errors.Is(err, ErrFetch) {
		t.Errorf("got %v", err)
	}
	assertEmpty(t, s)
}

func FuzzIdentify(f *testing.F) {
	f.Add(bzImage("6.1.0-1-amd64", nil))
	f.Add(vmlinux("Linux version 6.1.0 (x", nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := identify(bytes.NewReader(b), int64(len(b)))
		if err == nil && id.format == "" || err != nil && !errors.Is(err, ErrNotKernel) {
			t.Errorf("%+v, %v", id, err)
		}
		if len(id.version) > 64 || strings.ContainsAny(id.version, "/ \n\x00") {
			t.Errorf("version %q", id.version)
		}
	})
}

func FuzzDeb(f *testing.F) {
	f.Add(deb(f, "", plainBytes, debFiles(f)))
	f.Add(deb(f, ".zst", zstBytes, map[string][]byte{"boot/vmlinuz-1": nil}))
	f.Add(deb(f, ".xz", xzBytes, map[string][]byte{"boot/vmlinuz-1": nil}))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		out := filepath.Join(dir, "in")
		if err := os.Mkdir(out, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = unpackKernelDeb(t.Context(), bytes.NewReader(b), out)
		if es, err := os.ReadDir(dir); err != nil || len(es) != 1 {
			t.Errorf("wrote beside its directory: %v, %v", es, err)
		}
	})
}

func FuzzModulesDep(f *testing.F) {
	f.Add("kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko\nkernel/lib/libcrc32c.ko:\n", "softdep libcrc32c pre: crc32c post: x\n", "alias crc32c crc32c-intel\n", "kernel/a.ko\n")
	f.Fuzz(func(t *testing.T, dep, soft, alias, builtin string) {
		x := &index{map[string]string{}, map[string][]string{}, map[string][]string{}, map[string]bool{}, map[string][]string{}}
		if x.parseDep(dep) != nil {
			return
		}
		if err := errors.Join(x.parseSoftdep(soft), x.parseAlias(alias), x.parseBuiltin(builtin), x.parseBuiltinInfo(builtin)); err != nil {
			t.Error(err)
		}
		r := resolver{x: x, dir: t.TempDir(), state: map[string]visit{}}
		for n, p := range x.path {
			if !filepath.IsLocal(p) {
				t.Errorf("path %q", p)
			}
			_ = r.add(n, false)
		}
	})
}

func FuzzModinfo(f *testing.F) {
	f.Add(ko("name=a", "depends=b,c"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if info, err := modinfo(b); err == nil {
			_ = strings.Join(info, "")
		}
	})
}
