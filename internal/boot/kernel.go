package boot

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/memory"
)

// Format says what kind of file a kernel came as.
type Format uint8

// The formats OpenKernel knows.
const (
	VMLinux Format = iota + 1 // ELF
	BzImage                   // compressed image with a real-mode header
)

func (f Format) String() string {
	switch f {
	case VMLinux:
		return "vmlinux"
	case BzImage:
		return "bzImage"
	}
	return fmt.Sprintf("Format(%d)", uint8(f))
}

const (
	// defaultCmdlineMax is x86 Linux's COMMAND_LINE_SIZE less the final NUL;
	// a vmlinux does not say it, a bzImage does.
	defaultCmdlineMax = 2047
	// defaultInitrdMax is the initrd_addr_max that x86-64 kernels give.
	defaultInitrdMax = 0x7fffffff
)

// Kernel is a checked guest kernel, open for loading. The exported fields are
// for reading. It may be loaded any number of times, also concurrently.
type Kernel struct {
	Path        string     // as given to OpenKernel
	Format      Format     // of the file at Path
	Version     string     // "6.1.0-56-cloud-amd64 (...) #1 SMP ..."; a bzImage's own word, "" for a vmlinux
	Compression string     // of a bzImage's payload: "xz", "lz4", ...; "" for a vmlinux
	PVHEntry    memory.GPA // 32-bit entry; 0: the kernel has no PVH note
	Entry64     memory.GPA // 64-bit entry; 0: the kernel cannot be entered that way
	LoadStart   memory.GPA // first byte the kernel occupies
	LoadEnd     memory.GPA // first byte after what it needs from the start, bss and init_size included
	CmdlineMax  int        // longest command line in bytes, without the final NUL
	InitrdMax   memory.GPA // highest address the last byte of an initramfs may have

	im    *elfImage
	setup []byte // boot_params from 0x1f1 on; nil for a vmlinux
	file  io.ReaderAt
	close func() error
}

// OpenKernel opens and checks the kernel at path. A bzImage is unpacked into
// cacheDir (created when missing) unless the same content was unpacked there
// before; with an empty cacheDir it is unpacked into memory every time. The
// caller closes the Kernel. A file that is no usable kernel gives an error
// wrapping ErrKernel.
func OpenKernel(path, cacheDir string) (*Kernel, error) {
	// O_NONBLOCK: a FIFO must give an error, not a hang.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	k, err := openKernel(f, path, cacheDir)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", path, err)
	}
	return k, nil
}

// openKernel takes over f.
func openKernel(f *os.File, path, cacheDir string) (_ *Kernel, err error) {
	keep := false
	defer func() {
		if !keep {
			f.Close()
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return nil, bad("a directory, not a kernel")
	}
	if !st.Mode().IsRegular() {
		return nil, bad("not a regular file")
	}
	head := make([]byte, min(st.Size(), setupHeadSize))
	if err := readFull(f, head, 0, st.Size()); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(head, []byte("\x7fELF")) {
		im, err := parseELF(f, st.Size())
		if err != nil {
			return nil, err
		}
		keep = true
		return newKernel(path, im, nil, f, f.Close), nil
	}
	hdr, err := parseBzImage(head, st.Size())
	if err != nil {
		return nil, err
	}
	v, im, err := hdr.unpacked(f, cacheDir)
	if err != nil {
		return nil, err
	}
	return newKernel(path, im, hdr, v, v.Close), nil
}

func newKernel(path string, im *elfImage, hdr *bzHeader, file io.ReaderAt, closer func() error) *Kernel {
	span := im.span()
	k := &Kernel{
		Path: path, Format: VMLinux, PVHEntry: im.pvh, Entry64: im.entry,
		LoadStart: span.GPA, LoadEnd: span.End(),
		CmdlineMax: defaultCmdlineMax, InitrdMax: defaultInitrdMax,
		im: im, file: file, close: closer,
	}
	if hdr != nil {
		k.Format, k.Version, k.Compression = BzImage, hdr.version, hdr.packing.name
		k.CmdlineMax, k.InitrdMax = hdr.cmdlineMax, hdr.initrdMax
		k.LoadEnd = max(k.LoadEnd, span.GPA+memory.GPA(hdr.initSize))
		k.setup = hdr.setup
	}
	return k
}

// Close releases the kernel's file.
func (k *Kernel) Close() error { return k.close() }

// ELFPath returns the file with the kernel as an ELF program: Path itself, or
// the unpacked copy in the cache. It is empty when there is no cache. For
// programs that load the same kernel by other means.
func (k *Kernel) ELFPath() string {
	f, ok := k.file.(*os.File)
	if !ok || k.Format == BzImage && f.Name() == "" {
		return ""
	}
	return f.Name()
}
