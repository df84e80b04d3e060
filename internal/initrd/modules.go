package initrd

// Want is one kernel module that a guest needs unless its kernel has it built
// in.
type Want struct {
	// Name is the module's, with underscores.
	Name string
	// Required says that no workload starts without it.
	Required bool
	// Why says what it is for.
	Why string
}

// Wanted lists the modules in the order they are loaded in, dependencies aside:
// what leads to the first message from the host comes first, so that the guest
// can dial while it loads the rest.
func Wanted() []Want {
	return []Want{
		{"virtio_pci", true, "finds the devices on the PCI transport"},
		{"virtio_mmio", true, "finds the devices on the MMIO transport"},
		{"vmw_vsock_virtio_transport", true, "the connection to the host"},
		{"virtio_blk", true, "the image and the disks"},
		{"virtio_pmem", true, "the image as memory"},
		{"nd_pmem", true, "the image as memory, as a block device"},
		{"erofs", true, "the image's file system"},
		{"overlay", true, "the writable layer over the image"},
		{"virtiofs", true, "directories of the host"},
		{"ext4", false, "a writable layer on a disk"},
		{"virtio_net", false, "the network"},
		{"virtio_console", false, "the console hvc0"},
		{"virtio_balloon", true, "memory given back"},
		{"virtio_mem", true, "memory plugged in"},
		{"wdat_wdt", true, "the watchdog"},
		{"virtio_rng", false, "entropy from the host"},
	}
}
