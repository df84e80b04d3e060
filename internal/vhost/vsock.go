package vhost

// VsockPath is the socket device's node.
const VsockPath = "/dev/vhost-vsock"

// Vsock is one guest's place among the host's AF_VSOCK addresses, served by
// the kernel.
type Vsock struct{ device }

// OpenVsock opens VsockPath and takes it into ownership. Errors wrap
// fs.ErrNotExist or ENODEV when the kernel has no such device, fs.ErrPermission
// when this user may not open it.
func OpenVsock() (*Vsock, error) {
	d, err := open(VsockPath)
	if err != nil {
		return nil, err
	}
	return &Vsock{d}, nil
}

// SetGuestCID gives the guest its address (VHOST_VSOCK_SET_GUEST_CID): from now
// on host sockets find it. EADDRINUSE means that another device of this host
// has it; EINVAL that no guest can have it.
func (v *Vsock) SetGuestCID(cid uint64) error { return ioctl(v.f, &reqVsockSetGuestCID, &cid) }

// SetRunning starts or stops to serve the queues 0 (to the guest) and 1 (from
// it) (VHOST_VSOCK_SET_RUNNING). When a stop returns, the kernel no longer
// touches guest memory, and no buffer is half done. What was added to the
// queues before a start wants a signal of its kick eventfd afterwards.
func (v *Vsock) SetRunning(on bool) error {
	var n int32
	if on {
		n = 1
	}
	return ioctl(v.f, &reqVsockSetRunning, &n)
}
