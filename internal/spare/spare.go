// Package spare is what a host has left for an instance that wants to come: memory, disk, ports. A
// migration's destination tells its source (package plan, Facts).
package spare

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate"
)

// Memory is what the kernel believes it can give without swapping.
func Memory() (uint64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var name, unit string
	var n uint64
	for {
		if _, err := fmt.Fscanln(f, &name, &n, &unit); err != nil {
			return 0, fmt.Errorf("/proc/meminfo has no MemAvailable: %w", err)
		}
		if name == "MemAvailable:" {
			return n << 10, nil
		}
	}
}

// Disk is what is left where dir is, or will be.
func Disk(dir string) (uint64, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return st.Bavail * uint64(st.Bsize), nil
		}
		up := filepath.Dir(dir)
		if !errors.Is(err, unix.ENOENT) || up == dir {
			return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
		}
		dir = up
	}
}

// Busy returns the names of the ports that cannot be had.
func Busy(ports []workload.Port) (names []string) {
	for _, p := range ports {
		if p.HostPort == 0 {
			continue
		}
		ip := p.HostIP
		if !ip.IsValid() {
			ip = netip.IPv4Unspecified()
		}
		at := netip.AddrPortFrom(ip, p.HostPort)
		var err error
		switch p.Protocol {
		case "udp":
			var c *net.UDPConn
			if c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err == nil {
				err = c.Close()
			}
		default:
			var l *net.TCPListener
			if l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at)); err == nil {
				err = l.Close()
			}
		}
		if err != nil && !slices.Contains(names, PortName(p)) {
			names = append(names, PortName(p))
		}
	}
	return names
}

// roomFor is what is left on a disk that an image is taken onto, in bytes.
const roomFor = 256 << 20

// Image is the largest image that is taken in at dir, in bytes.
func Image(dir string) (uint64, error) {
	free, err := Disk(dir)
	if err != nil || free <= roomFor {
		return 0, err
	}
	return min(free-roomFor, migrate.MaxImage), nil
}

// PortName is how a plan calls a published port.
func PortName(p workload.Port) string {
	if p.HostPort == 0 { // any will do
		return fmt.Sprintf("%s/any:%d", p.Protocol, p.Port)
	}
	if p.HostIP.IsValid() {
		return fmt.Sprintf("%s/%v:%d", p.Protocol, p.HostIP, p.HostPort)
	}
	return fmt.Sprintf("%s/%d", p.Protocol, p.HostPort)
}
