package vhost

// MaxRegions is how many memory regions the kernel takes by default (vhost's
// module parameter max_mem_regions).
const MaxRegions = 64

// MemoryRegion is struct vhost_memory_region: a piece of guest memory and where
// it is in this process.
type MemoryRegion struct {
	GuestPhysAddr uint64
	MemorySize    uint64 // bytes
	UserspaceAddr uint64
	FlagsPadding  uint64 // no flags are defined
}

// memoryHeader is struct vhost_memory without its flexible array.
type memoryHeader struct {
	NRegions uint32
	Padding  uint32
}

// memory is struct vhost_memory with room for MaxRegions.
type memory struct {
	memoryHeader
	Regions [MaxRegions]MemoryRegion
}

// vringState is struct vhost_vring_state.
type vringState struct {
	Index uint32
	Num   uint32
}

// vringFile is struct vhost_vring_file.
type vringFile struct {
	Index uint32
	FD    int32 // -1 (VHOST_FILE_UNBIND) takes the descriptor away
}

// vringAddr is struct vhost_vring_addr. The addresses are of this process.
type vringAddr struct {
	Index         uint32
	Flags         uint32
	DescUserAddr  uint64
	UsedUserAddr  uint64
	AvailUserAddr uint64
	LogGuestAddr  uint64 // only with a flag that this package does not set
}

// request is one ioctl: its number and its C name.
type request struct {
	num  uintptr
	name string
}

// Encoding of ioctl numbers, include/uapi/asm-generic/ioctl.h. The argument's
// size is part of the number, so it is taken from the Go type: a mirror of the
// wrong size is a wrong number, which the kernel and the golden test refuse.
const (
	vhostVirtio = 0xaf // VHOST_VIRTIO

	iocWrite = 1
	iocRead  = 2

	iocNRShift   = 0
	iocTypeShift = 8
	iocSizeShift = 16
	iocDirShift  = 30
)

func ioc(dir, nr, size uintptr, name string) request {
	return request{dir<<iocDirShift | size<<iocSizeShift | vhostVirtio<<iocTypeShift | nr<<iocNRShift, name}
}

func ion(nr uintptr, name string) request        { return ioc(0, nr, 0, name) }
func ior[T any](nr uintptr, name string) request { return ioc(iocRead, nr, sizeOf[T](), name) }
func iow[T any](nr uintptr, name string) request { return ioc(iocWrite, nr, sizeOf[T](), name) }
func iowr[T any](nr uintptr, name string) request {
	return ioc(iocRead|iocWrite, nr, sizeOf[T](), name)
}

// The ioctls this package makes.
var (
	reqGetFeatures  = ior[uint64](0x00, "VHOST_GET_FEATURES")
	reqSetFeatures  = iow[uint64](0x00, "VHOST_SET_FEATURES")
	reqSetOwner     = ion(0x01, "VHOST_SET_OWNER")
	reqSetMemTable  = iow[memoryHeader](0x03, "VHOST_SET_MEM_TABLE")
	reqSetVringNum  = iow[vringState](0x10, "VHOST_SET_VRING_NUM")
	reqSetVringAddr = iow[vringAddr](0x11, "VHOST_SET_VRING_ADDR")
	reqSetVringBase = iow[vringState](0x12, "VHOST_SET_VRING_BASE")
	reqGetVringBase = iowr[vringState](0x12, "VHOST_GET_VRING_BASE")
	reqSetVringKick = iow[vringFile](0x20, "VHOST_SET_VRING_KICK")
	reqSetVringCall = iow[vringFile](0x21, "VHOST_SET_VRING_CALL")
	reqSetVringErr  = iow[vringFile](0x22, "VHOST_SET_VRING_ERR")

	reqNetSetBackend = iow[vringFile](0x30, "VHOST_NET_SET_BACKEND")

	reqVsockSetGuestCID = iow[uint64](0x60, "VHOST_VSOCK_SET_GUEST_CID")
	reqVsockSetRunning  = iow[int32](0x61, "VHOST_VSOCK_SET_RUNNING")
)
