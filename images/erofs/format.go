package erofs

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	// BlockSize is the size in bytes of a block of every image.
	BlockSize = 4096
	blockBits = 12

	// superOffset is where the super block starts (EROFS_SUPER_OFFSET).
	superOffset = 1024
	magic       = 0xe0f5e1e2

	// slotBits: an inode's number (nid) is its offset in the metadata area
	// in units of 32 bytes (EROFS_ISLOTBITS).
	slotBits = 5
	slotSize = 1 << slotBits

	inodeSize  = 64 // struct erofs_inode_extended
	direntSize = 12 // struct erofs_dirent

	// Values of the datalayout field of i_format.
	layoutPlain  = 0 // EROFS_INODE_FLAT_PLAIN
	layoutInline = 2 // EROFS_INODE_FLAT_INLINE
	layoutChunk  = 4 // EROFS_INODE_CHUNK_BASED

	compatSuperChecksum = 1 << 0 // EROFS_FEATURE_COMPAT_SB_CHKSUM
	compatMtime         = 1 << 1 // EROFS_FEATURE_COMPAT_MTIME: times are mtimes
	incompatChunked     = 1 << 2 // EROFS_FEATURE_INCOMPAT_CHUNKED_FILE

	chunkIndexes = 0x20 // EROFS_CHUNK_FORMAT_INDEXES: 8-byte chunk entries
	chunkBitsMax = 0x1f // EROFS_CHUNK_FORMAT_BLKBITS_MASK
	nullBlock    = 0xffffffff

	// maxName is the longest file name in bytes (EROFS_NAME_LEN).
	maxName = 255
)

// Kinds of file, as in the S_IFMT bits of a Unix mode.
const (
	ModeMask    = 0o170000
	ModeFifo    = 0o010000
	ModeChar    = 0o020000
	ModeDir     = 0o040000
	ModeBlock   = 0o060000
	ModeRegular = 0o100000
	ModeSymlink = 0o120000
	ModeSocket  = 0o140000
)

var le = binary.LittleEndian

// direntType returns the file_type of a directory entry (EROFS_FT_*).
func direntType(mode uint16) uint8 {
	switch mode & ModeMask {
	case ModeRegular:
		return 1
	case ModeDir:
		return 2
	case ModeChar:
		return 3
	case ModeBlock:
		return 4
	case ModeFifo:
		return 5
	case ModeSocket:
		return 6
	case ModeSymlink:
		return 7
	}
	return 0
}

// deviceNumber packs a device number as the kernel's new_encode_dev does: 12
// bits of major, 20 bits of minor.
func deviceNumber(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

type superBlock struct {
	inodes      uint64
	blocks      uint32
	metaBlock   uint32
	rootNID     uint16
	incompat    uint32
	uuid        [16]byte
	volumeLabel string
}

// encode returns block 0 of the image: 1 KiB of zeros, then the super block,
// its checksum over the rest of the block (crc32c without the final inversion).
func (s superBlock) encode() []byte {
	b := make([]byte, BlockSize)
	p := b[superOffset:]
	le.PutUint32(p[0:], magic)
	le.PutUint32(p[8:], compatSuperChecksum|compatMtime)
	p[12] = blockBits
	le.PutUint16(p[14:], s.rootNID)
	le.PutUint64(p[16:], s.inodes)
	// build_time stays 0: it matters only for compact inodes, which we do
	// not write, and a real time would make images differ.
	le.PutUint32(p[36:], s.blocks)
	le.PutUint32(p[40:], s.metaBlock)
	copy(p[48:64], s.uuid[:])
	copy(p[64:80], s.volumeLabel)
	le.PutUint32(p[80:], s.incompat)
	le.PutUint32(p[4:], ^crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return b
}
