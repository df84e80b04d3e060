package vhost

// NetPath is the network device's node.
const NetPath = "/dev/vhost-net"

// Net serves one pair of a network device's queues: 0 to the guest, 1 from it.
type Net struct{ device }

// OpenNet opens NetPath and takes it into ownership. Errors are as OpenVsock's.
func OpenNet() (*Net, error) {
	d, err := open(NetPath)
	if err != nil {
		return nil, err
	}
	return &Net{d}, nil
}

// SetBackend has a queue served from a tap (VHOST_NET_SET_BACKEND), whose frames
// begin with the header that the features say; -1 stops. When a stop returns, the
// kernel no longer touches the queue, and no buffer is half done.
func (n *Net) SetBackend(queue, tap int) error {
	return ioctl(n.f, &reqNetSetBackend, &vringFile{Index: uint32(queue), FD: int32(tap)})
}
