package kernel

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	arMagic = "!<arch>\n"
	arEntry = 60

	// Limits of an unpacked kernel package. Debian's generic kernel has about
	// 4,000 files and 400 MB.
	maxDebFiles = 100_000
	maxDebBytes = 4 << 30
)

// dataMember finds data.tar.* in a Debian package (deb(5)) and returns its
// uncompressed stream.
func dataMember(r io.Reader) (io.Reader, func(), error) {
	br := bufio.NewReaderSize(r, 256<<10)
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(br, magic); err != nil || string(magic) != arMagic {
		return nil, nil, fmt.Errorf("%w: not a Debian package", ErrBadPackage)
	}
	for {
		h := make([]byte, arEntry)
		if _, err := io.ReadFull(br, h); err != nil {
			if errors.Is(err, io.EOF) {
				return nil, nil, fmt.Errorf("%w: it has no data.tar", ErrBadPackage)
			}
			return nil, nil, fmt.Errorf("%w: truncated: %w", ErrBadPackage, err)
		}
		if h[58] != '`' || h[59] != '\n' {
			return nil, nil, fmt.Errorf("%w: damaged archive header", ErrBadPackage)
		}
		name := strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
		size, err := strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
		if err != nil || size < 0 {
			return nil, nil, fmt.Errorf("%w: damaged archive header: size %q", ErrBadPackage, h[48:58])
		}
		body := io.LimitReader(br, size)
		if ext, ok := strings.CutPrefix(name, "data.tar"); ok {
			return unpackMember(body, ext)
		}
		if n, err := io.Copy(io.Discard, io.LimitReader(br, size+size%2)); err != nil || n < size {
			return nil, nil, fmt.Errorf("%w: truncated in %s", ErrBadPackage, name)
		}
	}
}

func unpackMember(r io.Reader, ext string) (io.Reader, func(), error) {
	nothing := func() {}
	// The xz reader takes single bytes.
	r = bufio.NewReaderSize(r, 256<<10)
	switch ext {
	case "":
		return r, nothing, nil
	case ".xz":
		z, err := xz.NewReader(r)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: xz: %w", ErrBadPackage, err)
		}
		return z, nothing, nil
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, nil, fmt.Errorf("%w: zstd: %w", ErrBadPackage, err)
		}
		return z, z.Close, nil
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: gzip: %w", ErrBadPackage, err)
		}
		return z, nothing, nil
	}
	return nil, nil, fmt.Errorf("%w: data.tar%s is compressed in an unknown way", ErrBadPackage, ext)
}

// unpackKernelDeb takes the kernel, its configuration and its modules out of a
// package and puts them into dir as a kernel of the store has them. Nothing else
// of the package is unpacked or run.
func unpackKernelDeb(ctx context.Context, pkg io.Reader, dir string) error {
	data, done, err := dataMember(ctxReader{ctx, pkg})
	if err != nil {
		return err
	}
	defer done()
	u := debUnpacker{ctx: ctx, dir: dir, left: maxDebBytes}
	tr := tar.NewReader(data)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return u.readError(err)
		}
		if n >= maxDebFiles {
			return fmt.Errorf("%w: more than %d files", ErrBadPackage, maxDebFiles)
		}
		if err := u.entry(h, tr); err != nil {
			return err
		}
	}
	if u.kernel == "" {
		return fmt.Errorf("%w: it has no boot/vmlinuz-*", ErrBadPackage)
	}
	return nil
}

type debUnpacker struct {
	ctx    context.Context
	dir    string
	left   int64
	kernel string // version, from the name of the vmlinuz
}

func (u *debUnpacker) readError(err error) error {
	if u.ctx.Err() != nil {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: truncated: %w", ErrBadPackage, err)
	}
	return fmt.Errorf("%w: %w", ErrBadPackage, err)
}

// entry unpacks one file if it is one of those wanted.
func (u *debUnpacker) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	// A cleaned absolute name has no ".." left.
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	dst := u.place(strings.TrimPrefix(name, "usr/"))
	if dst == "" {
		return nil
	}
	if u.left -= h.Size; u.left < 0 {
		return fmt.Errorf("%w: more than %d bytes unpacked", ErrBadPackage, int64(maxDebBytes))
	}
	dst = filepath.Join(u.dir, dst)
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w: %.200q twice, or two kernels in one package", ErrBadPackage, name)
	}
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, reading{r, u}); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// reading names errors of the package, so that they are told from those of the
// disk.
type reading struct {
	r io.Reader
	u *debUnpacker
}

func (r reading) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.u.readError(err)
	}
	return n, err
}

// place says where a file goes, relative to the kernel's directory; empty for
// files that are not needed.
func (u *debUnpacker) place(name string) string {
	if v, ok := strings.CutPrefix(name, "boot/vmlinuz-"); ok && !strings.Contains(v, "/") {
		u.kernel = v
		return kernelFile
	}
	if v, ok := strings.CutPrefix(name, "boot/config-"); ok && !strings.Contains(v, "/") {
		return configFile
	}
	if rest, ok := strings.CutPrefix(name, "lib/modules/"); ok {
		if _, file, ok := strings.Cut(rest, "/"); ok && file != "" {
			return filepath.Join(modulesDir, file)
		}
	}
	return ""
}
