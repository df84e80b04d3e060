package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Format is the kind of file a kernel is.
type Format string

// The formats of kernel files.
const (
	BzImage Format = "bzImage"
	ELF     Format = "elf"
)

// identity is what the kernel file itself tells.
type identity struct {
	format  Format
	version string // "6.1.0-41-cloud-amd64"; empty when the file does not say
}

var le = binary.LittleEndian

// Offsets in the boot sector of a bzImage (Documentation/arch/x86/boot.rst).
const (
	hdrSetupSects = 0x1f1
	hdrSysSize    = 0x1f4
	hdrBootFlag   = 0x1fe
	hdrMagic      = 0x202
	hdrProtocol   = 0x206
	hdrVersionPtr = 0x20e
	hdrLoadFlags  = 0x211
	hdrXLoadFlags = 0x236
	hdrEnd        = 0x268
)

// identify tells an x86-64 Linux kernel from anything else. The errors wrap
// ErrNotKernel and say what the file is instead.
func identify(r io.ReaderAt, size int64) (identity, error) {
	head := make([]byte, min(size, 4096))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return identity{}, err
	}
	has := func(at int, s string) bool { return len(head) >= at+len(s) && string(head[at:at+len(s)]) == s }
	switch {
	case size == 0:
		return identity{}, fmt.Errorf("%w: the file is empty", ErrNotKernel)
	case has(0, "\x7fELF"):
		return identifyELF(r, head, size)
	case has(hdrMagic, "HdrS"):
		return identifyBzImage(r, head, size)
	case has(0x38, "ARM\x64"):
		return identity{}, fmt.Errorf("%w: %w: an arm64 kernel, want x86-64", ErrNotKernel, ErrArch)
	case has(0x38, "RISCV") || has(0x30, "RISCV"):
		return identity{}, fmt.Errorf("%w: %w: a RISC-V kernel, want x86-64", ErrNotKernel, ErrArch)
	case has(0, "\x1f\x8b") || has(0, "\x28\xb5\x2f\xfd") || has(0, "\xfd7zXZ"):
		return identity{}, fmt.Errorf("%w: a compressed file; unpack it first (a bzImage is used as it is)", ErrNotKernel)
	case has(0, "!<arch>\n"):
		return identity{}, fmt.Errorf("%w: a package or archive; unpack it and give the vmlinuz inside", ErrNotKernel)
	case has(0, "070701"):
		return identity{}, fmt.Errorf("%w: an initramfs", ErrNotKernel)
	}
	return identity{}, fmt.Errorf("%w: neither a bzImage (vmlinuz) nor an ELF vmlinux", ErrNotKernel)
}

func identifyBzImage(r io.ReaderAt, head []byte, size int64) (identity, error) {
	cut := func(want int64) error {
		return fmt.Errorf("%w: the bzImage is truncated: %d bytes, want at least %d", ErrNotKernel, size, want)
	}
	if len(head) < hdrEnd {
		return identity{}, cut(hdrEnd)
	}
	if le.Uint16(head[hdrBootFlag:]) != 0xaa55 {
		return identity{}, fmt.Errorf("%w: the bzImage's boot sector is damaged", ErrNotKernel)
	}
	if v := le.Uint16(head[hdrProtocol:]); v < 0x20c {
		return identity{}, fmt.Errorf("%w: boot protocol %d.%02d, want 2.12 (Linux 3.8) or later", ErrNotKernel, v>>8, v&0xff)
	}
	if head[hdrLoadFlags]&1 == 0 {
		return identity{}, fmt.Errorf("%w: a zImage, want a bzImage", ErrNotKernel)
	}
	if le.Uint16(head[hdrXLoadFlags:])&1 == 0 { // XLF_KERNEL_64
		return identity{}, fmt.Errorf("%w: %w: a 32-bit kernel, want 64-bit", ErrNotKernel, ErrArch)
	}
	sects := int64(head[hdrSetupSects])
	if sects == 0 {
		sects = 4
	}
	if want := (sects+1)*512 + 16*int64(le.Uint32(head[hdrSysSize:])); size < want {
		return identity{}, cut(want)
	}
	return identity{BzImage, bzVersion(r, head)}, nil
}

// bzVersion reads the version string, which lies in the set-up code.
func bzVersion(r io.ReaderAt, head []byte) string {
	p := le.Uint16(head[hdrVersionPtr:])
	if p == 0 {
		return ""
	}
	b := make([]byte, 256)
	n, err := r.ReadAt(b, int64(p)+0x200)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	b, _, _ = bytes.Cut(b[:n], []byte{0})
	return firstWord(string(b))
}

// firstWord returns a version that can be shown and compared, or nothing.
func firstWord(s string) string {
	w, _, _ := strings.Cut(s, " ")
	if w == "" || len(w) > 64 || w[0] < '0' || w[0] > '9' {
		return ""
	}
	for _, c := range []byte(w) {
		if c <= ' ' || c > '~' || c == '/' {
			return ""
		}
	}
	return w
}

func identifyELF(r io.ReaderAt, head []byte, size int64) (identity, error) {
	if len(head) < 64 {
		return identity{}, fmt.Errorf("%w: the ELF file is truncated: %d bytes", ErrNotKernel, size)
	}
	if head[4] != 2 {
		return identity{}, fmt.Errorf("%w: %w: a 32-bit ELF file, want 64-bit", ErrNotKernel, ErrArch)
	}
	if machine := le.Uint16(head[18:]); head[5] != 1 || machine != 62 {
		return identity{}, fmt.Errorf("%w: %w: an ELF file for machine %d, want x86-64 (62)", ErrNotKernel, ErrArch, machine)
	}
	if typ := le.Uint16(head[16:]); typ != 2 {
		return identity{}, fmt.Errorf("%w: an ELF file of type %d (an object, module or library), want an executable vmlinux", ErrNotKernel, typ)
	}
	phoff, phentsize, phnum := le.Uint64(head[32:]), le.Uint16(head[54:]), le.Uint16(head[56:])
	if phentsize != 56 || phnum == 0 || phnum > 64 {
		return identity{}, fmt.Errorf("%w: an ELF file with %d program headers of %d bytes", ErrNotKernel, phnum, phentsize)
	}
	ph := make([]byte, int(phnum)*56)
	if phoff > uint64(size) || uint64(size)-phoff < uint64(len(ph)) {
		return identity{}, fmt.Errorf("%w: the ELF file is truncated: program headers at %d, file of %d bytes", ErrNotKernel, phoff, size)
	}
	if _, err := r.ReadAt(ph, int64(phoff)); err != nil {
		return identity{}, err
	}
	for ; len(ph) > 0; ph = ph[56:] {
		if le.Uint32(ph) != 1 { // PT_LOAD
			continue
		}
		off, n := le.Uint64(ph[8:]), le.Uint64(ph[32:])
		if off > uint64(size) || uint64(size)-off < n {
			return identity{}, fmt.Errorf("%w: the ELF file is truncated: %d bytes, a segment ends at %d", ErrNotKernel, size, off+n)
		}
	}
	v, err := elfVersion(r, size)
	if err != nil {
		return identity{}, err
	}
	if v == "" {
		return identity{}, fmt.Errorf("%w: an ELF program without a \"Linux version\" banner", ErrNotKernel)
	}
	return identity{ELF, v}, nil
}

// elfVersion looks for the banner that the kernel prints first.
func elfVersion(r io.ReaderAt, size int64) (string, error) {
	const banner, keep = "Linux version ", 128
	buf := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(buf)) - keep {
		n, err := r.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		for b := buf[:n]; ; {
			i := bytes.Index(b, []byte(banner))
			if i < 0 {
				break
			}
			b = b[i+len(banner):]
			if v := firstWord(string(b[:min(len(b), 80)])); v != "" {
				return v, nil
			}
		}
		if n < len(buf) {
			break
		}
	}
	return "", nil
}

// openKernel opens a kernel file and identifies it. Errors name the file.
func openKernel(path string) (*os.File, int64, identity, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|oNonblock, 0)
	if err != nil {
		return nil, 0, identity{}, fmt.Errorf("kernel: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: not a regular file", ErrNotKernel)
	}
	var id identity
	if err == nil {
		id, err = identify(f, st.Size())
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, id, fmt.Errorf("kernel %s: %w", path, err)
	}
	return f, st.Size(), id, nil
}
