package images

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// source is an opened import source.
type source struct {
	kind  SourceType
	path  string
	isDir bool
	files files    // OCI and docker: named files of the source
	file  *os.File // root file system tar
	close []func() error
}

// files gives access to the named files of an image layout.
type files interface {
	// open returns a file and its size; errors wrap fs.ErrNotExist.
	open(name string) (io.ReadCloser, int64, error)
}

func (src *source) Close() error {
	var err error
	for _, c := range src.close {
		err = errors.Join(err, c())
	}
	return err
}

// openSource opens a source and finds out what it is.
func (s *Store) openSource(ctx context.Context, name string, kind SourceType) (_ *source, err error) {
	// Without O_NONBLOCK opening a FIFO would wait for a writer.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	src := &source{kind: kind, path: name, file: f, close: []func() error{f.Close}}
	defer func() {
		if err != nil {
			_ = src.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case st.IsDir():
		return src, src.openDir()
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%w: neither a file nor a directory", ErrUnsupported)
	case st.Size() == 0:
		return nil, fmt.Errorf("%w: the file is empty", ErrBadImage)
	}
	return src, src.openArchive(ctx, s)
}

func (src *source) openDir() error {
	root, err := os.OpenRoot(src.path)
	if err != nil {
		return err
	}
	src.close = append(src.close, root.Close)
	src.isDir = true
	d := dirFiles{root}
	src.files = d
	if src.kind == Auto {
		src.kind = RootTar
		if d.has("oci-layout") && d.has("index.json") {
			src.kind = OCI
		} else if d.has("manifest.json") && !d.has("etc") && !d.has("usr") {
			src.kind = DockerArchive
		}
	}
	return nil
}

// dirFiles is a directory; names cannot leave it, not even by links.
type dirFiles struct{ root *os.Root }

func (d dirFiles) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is not a regular file", ErrBadImage, name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

func (d dirFiles) has(name string) bool {
	_, err := d.root.Lstat(name)
	return err == nil
}

// imageNames are the top-level names of OCI and docker archives.
var imageNames = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(oci-layout|index\.json|blobs|manifest\.json|repositories|[0-9a-f]{64}(\.json|\.tar)?|sha256:[0-9a-f]{64}(\.json)?|[0-9a-f]{64}\.tar\.gz)$`)
})

func (src *source) openArchive(ctx context.Context, s *Store) error {
	kind, err := detectTar(ctx, src.file)
	if err != nil {
		return err
	}
	if src.kind == Auto {
		src.kind = kind
	}
	if src.kind == RootTar {
		_, err := src.file.Seek(0, io.SeekStart)
		return err
	}
	plainFile, err := s.uncompressed(ctx, src)
	if err != nil {
		return err
	}
	src.files, err = indexTar(ctx, plainFile)
	return err
}

// detectTar reads entries until it is clear what a tar holds. A root file system
// shows itself by its first names.
func detectTar(ctx context.Context, f *os.File) (SourceType, error) {
	r, err := decompress(f)
	if err != nil {
		return "", err
	}
	defer r.Close()
	seen := map[string]bool{}
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		if err := context.Cause(ctx); err != nil {
			return "", err
		}
		h, err := tr.Next()
		if err == io.EOF && n > 0 {
			break
		}
		if err != nil {
			if n == 0 {
				return "", fmt.Errorf("%w: not a tar archive (plain or compressed with gzip, zstd or xz), or a truncated one", ErrBadImage)
			}
			return "", fmt.Errorf("%w: %w", ErrBadImage, truncated(err))
		}
		top, _, _ := strings.Cut(strings.TrimPrefix(path.Clean("/"+h.Name), "/"), "/")
		if top == "" {
			continue
		}
		if !imageNames().MatchString(top) {
			return RootTar, nil
		}
		seen[top] = true
		if seen["oci-layout"] && seen["index.json"] {
			return OCI, nil
		}
	}
	if seen["manifest.json"] {
		return DockerArchive, nil
	}
	return RootTar, nil
}

func truncated(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the archive is truncated: %w", err)
	}
	return err
}

// uncompressed returns a seekable, uncompressed view of an archive: the file
// itself, or an unpacked copy that has no name.
func (s *Store) uncompressed(ctx context.Context, src *source) (*os.File, error) {
	if _, err := src.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	head, err := bufio.NewReader(src.file).Peek(6)
	if err != nil {
		return nil, err
	}
	if _, err := src.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if sniff(head) == plain {
		return src.file, nil
	}
	tmp, err := s.createTemp("archive")
	if err != nil {
		return nil, err
	}
	src.close = append(src.close, tmp.Close)
	if err := os.Remove(tmp.Name()); err != nil {
		return nil, err
	}
	r, err := decompress(src.file)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if _, err := copyContext(ctx, tmp, io.LimitReader(r, maxUnpacked)); err != nil {
		return nil, err
	}
	_, err = tmp.Seek(0, io.SeekStart)
	return tmp, err
}

// maxUnpacked bounds a compressed archive; its images have bounds of their own.
const maxUnpacked = 256 << 30

// tarFiles is an index over the files of a tar.
type tarFiles struct {
	f     *os.File
	at    map[string]span
	links map[string]string
}

type span struct{ off, size int64 }

const maxArchiveFiles = 100_000

func indexTar(ctx context.Context, f *os.File) (tarFiles, error) {
	t := tarFiles{f: f, at: map[string]span{}, links: map[string]string{}}
	tr := tar.NewReader(f) // it seeks over contents, so f's offset is ours
	for n := 0; ; n++ {
		if err := context.Cause(ctx); err != nil {
			return t, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return t, fmt.Errorf("%w: %w", ErrBadImage, truncated(err))
		}
		if n >= maxArchiveFiles {
			return t, fmt.Errorf("%w: archive of more than %d files", ErrBadImage, maxArchiveFiles)
		}
		name := cleanName(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			off, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return t, err
			}
			if isSparse(h) {
				return t, fmt.Errorf("%w: %.200q is stored as a sparse file", ErrUnsupported, h.Name)
			}
			t.at[name] = span{off, h.Size}
		case tar.TypeSymlink:
			// Old docker archives link equal layers to each other.
			t.links[name] = cleanName(path.Join(path.Dir(name), h.Linkname))
		case tar.TypeLink:
			t.links[name] = cleanName(h.Linkname)
		}
	}
}

func isSparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func cleanName(s string) string { return strings.TrimPrefix(path.Clean("/"+s), "/") }

func (t tarFiles) open(name string) (io.ReadCloser, int64, error) {
	name = cleanName(name)
	for range 8 {
		if s, ok := t.at[name]; ok {
			return io.NopCloser(io.NewSectionReader(t.f, s.off, s.size)), s.size, nil
		}
		to, ok := t.links[name]
		if !ok {
			break
		}
		name = to
	}
	return nil, 0, fmt.Errorf("%.200q is not in the archive: %w", name, fs.ErrNotExist)
}

// readFile returns a small file of a source.
func readFile(fl files, name string, limit int64) ([]byte, error) {
	r, size, err := fl.open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadImage, err)
	}
	defer r.Close()
	if size > limit {
		return nil, fmt.Errorf("%w: %.200q has %d bytes, limit %d", ErrBadImage, name, size, limit)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("%w: %.200q: %w", ErrBadImage, name, truncated(err))
	}
	return b, nil
}
