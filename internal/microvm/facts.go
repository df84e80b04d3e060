package microvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/machine"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/plan"
)

// maxAsked bounds the ports and processors that a source can ask for.
const maxAsked = 256

// facts tells a source what this host has for its VM. The question comes from
// outside: it can learn whether a file of the image folder is there, and whether
// a port is free, nothing else of this host's files and ports.
func (v *VM) facts(own *workload.Config) func(context.Context, json.RawMessage) (json.RawMessage, error) {
	return func(ctx context.Context, raw json.RawMessage) (json.RawMessage, error) {
		var q question
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			return nil, err
		}
		if len(q.Ports) > maxAsked || q.CPUs < 1 || q.CPUs > maxAsked {
			return nil, fmt.Errorf("%d ports and %d processors; at most %d are answered for", len(q.Ports), q.CPUs, maxAsked)
		}
		if q.Gap != "" {
			return v.tellGap(ctx, q.Gap)
		}
		f := plan.Facts{Networks: []string{workload.NetUser}}
		if os.Geteuid() == 0 {
			f.Networks = append(f.Networks, workload.NetBridge)
		}
		var err, derr, cerr error
		f.Memory, err = freeMemory()
		f.Disk, derr = freeDisk(own.DataDir)
		cpu, cerr := machine.HostCPU(v.host.KVM, q.CPUs)
		if err := errors.Join(err, derr, cerr); err != nil {
			return nil, err
		}
		f.CPU = planCPU(cpu)
		if f.Image, err = mostImage(own.VM.Receive.Images); err != nil {
			return nil, err
		}
		if name := filepath.Base(q.Image); name == q.Image {
			if _, err := os.Stat(filepath.Join(own.VM.Receive.Images, name)); err == nil {
				f.Images = append(f.Images, name)
			}
		}
		if own.Net.Publish == nil { // else the user has chosen ports for what comes
			f.Busy = busy(q.Ports)
		}
		return json.Marshal(f)
	}
}

// planCPU is a processor as plans describe it. A TSC is not scaled here.
func planCPU(c machine.CPU) plan.CPU {
	return plan.CPU{Vendor: c.Vendor, Features: c.Words, PhysBits: c.PhysBits, XSave: c.XSave, TSCkHz: c.TSCkHz}
}

// freeMemory is what the kernel believes it can give without swapping.
func freeMemory() (uint64, error) {
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

// freeDisk is what is left where dir is, or will be.
func freeDisk(dir string) (uint64, error) {
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

// busy returns the names of the ports that cannot be had.
func busy(ports []workload.Port) (names []string) {
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
		if err != nil && !slices.Contains(names, portName(p)) {
			names = append(names, portName(p))
		}
	}
	return names
}
