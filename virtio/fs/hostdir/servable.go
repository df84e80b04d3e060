package hostdir

import "golang.org/x/sys/unix"

// servable are the types of file systems (statfs(2), f_type) whose files are
// nothing but data. What is mounted below the directory and not of these is
// shown as an empty directory: the files of proc, sysfs, cgroup and their like
// are doors into the host's kernel, and of proc even into this process.
var servable = map[uint32]bool{
	unix.EXT4_SUPER_MAGIC: true, unix.XFS_SUPER_MAGIC: true, unix.BTRFS_SUPER_MAGIC: true, unix.F2FS_SUPER_MAGIC: true,
	unix.TMPFS_MAGIC: true, unix.RAMFS_MAGIC: true, unix.OVERLAYFS_SUPER_MAGIC: true,
	unix.EROFS_SUPER_MAGIC_V1: true, unix.SQUASHFS_MAGIC: true, unix.ISOFS_SUPER_MAGIC: true, unix.UDF_SUPER_MAGIC: true,
	unix.MSDOS_SUPER_MAGIC: true, unix.EXFAT_SUPER_MAGIC: true, ntfs3: true,
	unix.NFS_SUPER_MAGIC: true, unix.CIFS_SUPER_MAGIC: true, unix.SMB2_SUPER_MAGIC: true, unix.CEPH_SUPER_MAGIC: true, unix.V9FS_MAGIC: true,
	unix.FUSE_SUPER_MAGIC: true, unix.AFS_FS_MAGIC: true, unix.OCFS2_SUPER_MAGIC: true, unix.ECRYPTFS_SUPER_MAGIC: true,
	zfs: true, bcachefs: true, lustre: true, gfs2: true, jfs: true,
}

// Those that package unix does not have.
const (
	ntfs3    = 0x7366746e
	zfs      = 0x2fc12fc1
	bcachefs = 0xca451a4e
	lustre   = 0x0bd00bd0
	gfs2     = 0x01161970
	jfs      = 0x3153464a
)
