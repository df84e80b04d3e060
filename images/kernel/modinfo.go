package kernel

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxModule bounds an unpacked module; the largest of a distribution are some
// tens of megabytes with debug information stripped.
const maxModule = 256 << 20

var moduleSuffixes = []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"}

// moduleName returns the name under which the kernel knows a module file, and
// whether path is one. Dashes and underscores mean the same.
func moduleName(path string) (string, bool) {
	base := path[strings.LastIndexByte(path, '/')+1:]
	for _, s := range moduleSuffixes {
		if n, ok := strings.CutSuffix(base, s); ok && n != "" {
			return plainName(n), true
		}
	}
	return "", false
}

func plainName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// readModule returns a module file's unpacked contents.
func readModule(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	switch {
	case strings.HasSuffix(path, ".xz"):
		r, err = xz.NewReader(bufio.NewReader(f))
	case strings.HasSuffix(path, ".gz"):
		r, err = gzip.NewReader(f)
	case strings.HasSuffix(path, ".zst"):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20)); err == nil {
			defer z.Close()
			r = z
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBadModules, path, err)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBadModules, path, err)
	}
	if len(b) > maxModule {
		return nil, fmt.Errorf("%w: %s: larger than %d bytes", ErrBadModules, path, maxModule)
	}
	return b, nil
}

// modinfo returns the "key=value" strings of a module's .modinfo section. The
// standard library's ELF reader is not made for hostile files, and one section
// is all that is needed.
func modinfo(b []byte) ([]string, error) {
	bad := func(what string) ([]string, error) {
		return nil, fmt.Errorf("%w: not a 64-bit ELF module: %s", ErrBadModules, what)
	}
	if len(b) < 64 || string(b[:6]) != "\x7fELF\x02\x01" {
		return bad("header")
	}
	off, size, num, strtab := le.Uint64(b[40:]), le.Uint16(b[58:]), le.Uint16(b[60:]), le.Uint16(b[62:])
	if size != 64 || strtab >= num || off > uint64(len(b)) || uint64(len(b))-off < 64*uint64(num) {
		return bad("section headers")
	}
	section := func(i uint16) (name uint32, data []byte, ok bool) {
		h := b[off+64*uint64(i):]
		at, n := le.Uint64(h[24:]), le.Uint64(h[32:])
		if at > uint64(len(b)) || uint64(len(b))-at < n {
			return 0, nil, false
		}
		return le.Uint32(h), b[at : at+n], true
	}
	_, names, ok := section(strtab)
	if !ok {
		return bad("section names")
	}
	for i := range num {
		h := b[off+64*uint64(i):]
		at := uint64(le.Uint32(h))
		if at > uint64(len(names)) || !bytes.HasPrefix(names[at:], []byte(".modinfo\x00")) {
			continue
		}
		_, data, ok := section(i)
		if !ok {
			return bad(".modinfo")
		}
		return strings.Split(strings.Trim(string(data), "\x00"), "\x00"), nil
	}
	return nil, nil
}
