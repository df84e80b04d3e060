package boot

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/hvctl/hvctl/memory"
)

// Offsets in the bzImage setup header, and at the same time in boot_params
// (Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header").
const (
	offSetupSects    = 0x1f1
	offSysSize       = 0x1f4
	offBootFlag      = 0x1fe
	offJumpLen       = 0x201
	offHdrS          = 0x202
	offProtocol      = 0x206
	offKernelVersion = 0x20e
	offTypeOfLoader  = 0x210
	offLoadFlags     = 0x211
	offRamdiskImage  = 0x218
	offRamdiskSize   = 0x21c
	offCmdLinePtr    = 0x228
	offInitrdAddrMax = 0x22c
	offKernelAlign   = 0x230
	offXLoadFlags    = 0x236
	offCmdlineSize   = 0x238
	offPayloadOffset = 0x248
	offPayloadLength = 0x24c
	offSetupData     = 0x250
	offInitSize      = 0x260
	offSetupEnd      = 0x268 // end of what a 2.10 header must have
	offSetupMax      = 0x290 // first boot_params field after the header

	setupHeadSize = 64 << 10 // most of a file that holds the real-mode part
	maxBzImage    = 1 << 30
	maxVersion    = 256
)

// bzHeader is what a checked bzImage says about itself.
type bzHeader struct {
	version    string
	payloadOff int64
	payloadLen int64
	packing    packing
	cmdlineMax int
	initrdMax  memory.GPA
	initSize   uint64
	setup      []byte // from offSetupSects on, to be copied into boot_params
}

// notKernels are files that get mistaken for a kernel, known by their magic.
var notKernels = []struct {
	off   int
	magic string
	what  string
}{
	{0x38, "ARM\x64", "an ARM64 kernel image; a 64-bit x86 kernel is needed"},
	{0x30, "RISCV", "a RISC-V kernel image; a 64-bit x86 kernel is needed"},
	{4, "zimg", "an EFI zboot image; a vmlinux or x86 bzImage is needed"},
	{0, "\x1f\x8b", "a gzip file; unpack it first (or is it an initramfs?)"},
	{0, "\xfd7zXZ", "an xz file; unpack it first"},
	{0, "\x28\xb5\x2f\xfd", "a zstd file; unpack it first (or is it an initramfs?)"},
	{0, "070701", "a cpio archive; is it the initramfs?"},
	{0, "!<arch>\n", "an ar archive or Debian package"},
	{0, "QFI\xfb", "a qcow2 disk image"},
	{0, "MZ", "an EFI or Windows program without a Linux boot header"},
}

// parseBzImage checks the setup header in head, the first bytes (at most
// setupHeadSize) of a file of size bytes.
func parseBzImage(head []byte, size int64) (*bzHeader, error) {
	le := binary.LittleEndian
	if len(head) == 0 {
		return nil, bad("the file is empty")
	}
	if len(head) < offSetupEnd || le.Uint16(head[offBootFlag:]) != 0xaa55 || string(head[offHdrS:offHdrS+4]) != "HdrS" {
		for _, n := range notKernels {
			if len(head) > n.off && bytes.HasPrefix(head[n.off:], []byte(n.magic)) {
				return nil, bad("%s", n.what)
			}
		}
		return nil, bad("neither a vmlinux (ELF) nor a bzImage")
	}
	if size > maxBzImage {
		return nil, bad("bzImage of %d MiB, more than %d", size>>20, maxBzImage>>20)
	}
	if p := le.Uint16(head[offProtocol:]); p < 0x208 {
		return nil, bad("boot protocol %d.%02d is too old; 2.08 (Linux 2.6.26) is needed", p>>8, p&0xff)
	} else if p >= 0x20c && head[offXLoadFlags]&1 == 0 {
		return nil, bad("a 32-bit bzImage; a 64-bit kernel is needed")
	}
	sects := int64(head[offSetupSects])
	if sects == 0 {
		sects = 4 // boot.rst: 0 stands for 4
	}
	base := (sects + 1) * 512
	if want := base + int64(le.Uint32(head[offSysSize:]))*16; want > size {
		return nil, bad("truncated: its header says %d bytes, the file has %d", want, size)
	}
	h := &bzHeader{
		payloadOff: base + int64(le.Uint32(head[offPayloadOffset:])),
		payloadLen: int64(le.Uint32(head[offPayloadLength:])),
		cmdlineMax: defaultCmdlineMax,
		initrdMax:  memory.GPA(le.Uint32(head[offInitrdAddrMax:])),
		initSize:   uint64(le.Uint32(head[offInitSize:])),
		version:    kernelVersion(head),
	}
	if h.payloadLen < 8 || h.payloadOff > size || h.payloadLen > size-h.payloadOff {
		return nil, bad("truncated: compressed payload at %#x of %d bytes, file ends at %#x", h.payloadOff, h.payloadLen, size)
	}
	if n := le.Uint32(head[offCmdlineSize:]); n > 0 {
		h.cmdlineMax = int(min(n, cmdlineRoom-1))
	}
	if h.initSize > maxKernelSpan {
		return nil, bad("init_size of %d MiB, more than %d", h.initSize>>20, maxKernelSpan>>20)
	}
	end := min(offHdrS+int(head[offJumpLen]), offSetupMax, len(head))
	if end < offSetupEnd && le.Uint16(head[offProtocol:]) >= 0x20a {
		return nil, bad("setup header ends at %#x, want at least %#x", end, offSetupEnd)
	}
	h.setup = bytes.Clone(head[offSetupSects:max(end, offSetupSects)])
	return h, nil
}

// kernelVersion reads the version string, "" when there is none or it is odd.
func kernelVersion(head []byte) string {
	at := int(binary.LittleEndian.Uint16(head[offKernelVersion:])) + 0x200
	if at == 0x200 || at >= len(head) {
		return ""
	}
	s, _, ok := bytes.Cut(head[at:min(len(head), at+maxVersion)], []byte{0})
	if !ok {
		return ""
	}
	for _, c := range s {
		if c < ' ' || c > '~' { // it ends up on terminals
			return ""
		}
	}
	return string(s)
}

// payload is the compressed kernel within the bzImage f.
func (h *bzHeader) payload(f io.ReaderAt) *io.SectionReader {
	return io.NewSectionReader(f, h.payloadOff, h.payloadLen)
}
