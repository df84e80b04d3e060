package main

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// plug serves Plug: the workload's /dev has a file for each disk, which only we make.
func (m *manager) plug(p guestproto.Plug) error {
	m.mu.Lock()
	path := m.plugged[p.Serial]
	var root *root
	if c := m.containers[""]; c != nil {
		root = c.root
	}
	m.mu.Unlock()
	switch {
	case root == nil:
		return stateErr("no workload runs")
	case p.Serial == "":
		return &rpcError{-32602, "a disk without a serial number"}
	}
	var err error
	if p.Gone {
		path, err = "", removeNode(path)
	} else {
		path, err = addDisk(root.path()+"/dev", guestproto.Device{Serial: p.Serial}) // which waits for it
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plugged[p.Serial] = path
	if path == "" {
		delete(m.plugged, p.Serial)
	}
	return err
}

// removeNode removes a device file, unless the workload has put something else in
// its place.
func removeNode(path string) error {
	var st unix.Stat_t
	if path == "" || unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil
	}
	return os.Remove(path)
}
