package initrd

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxModule bounds one unpacked module; the largest of a Debian kernel that a
// guest could want is below 2 MiB.
const maxModule = 64 << 20

// Module is a kernel module to load.
type Module struct {
	// Name is the module's name, used in messages and for the file.
	Name string
	// Path is its file: .ko, or .ko with .gz, .xz or .zst.
	Path string
}

// Extra is one more file in the archive.
type Extra struct {
	// Name is the path inside, without a leading slash.
	Name string
	// Mode are the permission bits.
	Mode uint32
	Data []byte
}

// Options say what goes into an initramfs.
type Options struct {
	// Hvinit is the file of the guest's init. Required.
	Hvinit string
	// Modules in load order; each after those it depends on.
	Modules []Module
	// Extra files, in any order.
	Extra []Extra
}

// Build writes the archive to w. The bytes depend on the options' content only.
func Build(w io.Writer, o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	hvinit, err := os.Open(o.Hvinit)
	if err != nil {
		return fmt.Errorf("the guest's init: %w", err)
	}
	defer hvinit.Close()
	fi, err := hvinit.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%w: the guest's init %s is not a regular file", ErrOptions, o.Hvinit)
	}
	c := &cpioWriter{w: w}
	for _, d := range []string{"dev", "hv", "hvctl", "proc", "sys"} {
		c.member(d, modeDir|0o755, 0, 0, 0, nil)
	}
	c.member("dev/console", modeChar|0o600, 0, 5, 1, nil)
	c.member("init", modeFile|0o755, fi.Size(), 0, 0, hvinit)
	var order strings.Builder
	for _, m := range o.Modules {
		b, err := readModule(m)
		if err != nil {
			return err
		}
		file := m.Name + ".ko"
		order.WriteString(file + "\n")
		c.member("hvctl/"+file, modeFile|0o644, int64(len(b)), 0, 0, bytes.NewReader(b))
	}
	if order.Len() != 0 {
		c.member("hvctl/modules", modeFile|0o644, int64(order.Len()), 0, 0, strings.NewReader(order.String()))
	}
	writeExtra(c, o.Extra)
	return c.close()
}

// writeExtra adds the extra files, sorted, with the directories they need.
func writeExtra(c *cpioWriter, extra []Extra) {
	extra = append([]Extra(nil), extra...)
	sort.Slice(extra, func(i, j int) bool { return extra[i].Name < extra[j].Name })
	made := map[string]bool{".": true, "dev": true, "hv": true, "hvctl": true, "proc": true, "sys": true}
	var mkdir func(string)
	mkdir = func(dir string) {
		if made[dir] {
			return
		}
		mkdir(path.Dir(dir))
		made[dir] = true
		c.member(dir, modeDir|0o755, 0, 0, 0, nil)
	}
	for _, e := range extra {
		mkdir(path.Dir(e.Name))
		c.member(e.Name, modeFile|e.Mode&0o7777, int64(len(e.Data)), 0, 0, bytes.NewReader(e.Data))
	}
}

func (o Options) validate() error {
	if o.Hvinit == "" {
		return fmt.Errorf("%w: no guest init given", ErrOptions)
	}
	taken := map[string]bool{"init": true, "dev/console": true, "hvctl/modules": true}
	for _, m := range o.Modules {
		name := "hvctl/" + m.Name + ".ko"
		if m.Name == "" || strings.ContainsAny(m.Name, "/ \n\x00") || taken[name] {
			return fmt.Errorf("%w: module name %q is empty, a path, or given twice", ErrOptions, m.Name)
		}
		taken[name] = true
	}
	for _, e := range o.Extra {
		if e.Name == "" || path.Clean(e.Name) != e.Name || path.IsAbs(e.Name) || strings.HasPrefix(e.Name, "..") ||
			strings.Contains(e.Name, "\x00") || taken[e.Name] {
			return fmt.Errorf("%w: file name %q is not a clean relative path, or given twice", ErrOptions, e.Name)
		}
		taken[e.Name] = true
	}
	return nil
}

// readModule returns a module's content, unpacked and checked to be one.
func readModule(m Module) ([]byte, error) {
	f, err := os.Open(m.Path)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrModule, m.Name, err)
	}
	defer f.Close()
	b, err := unpack(f, path.Ext(m.Path))
	if err == nil {
		err = checkModule(b)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s (%s): %w", ErrModule, m.Name, m.Path, err)
	}
	return b, nil
}

// unpack reads a module of the compression that ext names.
func unpack(r io.Reader, ext string) ([]byte, error) {
	var err error
	switch ext {
	case ".ko":
	case ".gz":
		r, err = gzip.NewReader(r)
	case ".xz":
		r, err = xz.ReaderConfig{DictCap: 1 << 20, SingleStream: true}.NewReader(r)
	case ".zst":
		var d *zstd.Decoder
		d, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule))
		if err == nil {
			defer d.Close()
			r = d
		}
	default:
		return nil, fmt.Errorf("file type %q is unknown: want .ko, .ko.gz, .ko.xz or .ko.zst", ext)
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(b) > maxModule {
		err = fmt.Errorf("unpacks to more than %d bytes", maxModule)
	}
	return b, err
}

// checkModule returns an error unless b is a relocatable x86-64 ELF file. The
// guest's kernel checks the rest.
func checkModule(b []byte) error {
	const headerSize = 64
	switch {
	case len(b) < headerSize || string(b[:4]) != elf.ELFMAG:
		return fmt.Errorf("not an ELF file")
	case elf.Class(b[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(b[elf.EI_DATA]) != elf.ELFDATA2LSB:
		return fmt.Errorf("not a 64-bit little-endian ELF file")
	case elf.Type(b[16])|elf.Type(b[17])<<8 != elf.ET_REL:
		return fmt.Errorf("not a relocatable ELF file")
	case elf.Machine(b[18])|elf.Machine(b[19])<<8 != elf.EM_X86_64:
		return fmt.Errorf("not for x86-64")
	}
	return nil
}
