package testenv

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// probeNFTables asks the kernel's nf_tables for its generation
// (NFT_MSG_GETGEN), which loads the module where it is one.
func probeNFTables() error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	const size = 20 // struct nlmsghdr and struct nfgenmsg
	var req [size]byte
	ne := binary.NativeEndian
	ne.PutUint32(req[0:], size)
	ne.PutUint16(req[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN)
	ne.PutUint16(req[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(s, req[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	var resp [4096]byte
	n, _, err := unix.Recvfrom(s, resp[:], 0)
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	if n >= size && ne.Uint16(resp[4:]) == unix.NLMSG_ERROR {
		return fmt.Errorf("nf_tables: %w", unix.Errno(-int32(ne.Uint32(resp[16:]))))
	}
	return nil
}
