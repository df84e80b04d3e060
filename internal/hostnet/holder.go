package hostnet

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// socketHolder names the process that has a socket bound to p's host port, as
// far as /proc tells us: "nginx (pid 812)", or "".
func socketHolder(p Port) string {
	pid := holderPID(p)
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
		return fmt.Sprintf("%s (pid %d)", bytes.TrimSpace(comm), pid)
	}
	return ""
}

// heldByKeeper says whether a keeper has p's host port.
func heldByKeeper(p Port) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", holderPID(p)))
	return err == nil && bytes.HasSuffix(args, []byte("\x00"+VerbKeep+"\x00"))
}

// holderPID is the process that has a socket bound to p's host port; 0: none that
// we can see.
func holderPID(p Port) int {
	inodes := map[string]bool{}
	for _, suffix := range []string{"", "6"} {
		data, err := os.ReadFile("/proc/thread-self/net/" + p.Protocol + suffix)
		if err != nil {
			continue
		}
		boundInodes(data, p, inodes)
	}
	if len(inodes) == 0 {
		return 0
	}
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range procs {
		if pid, err := strconv.Atoi(e.Name()); err == nil && holdsSocket(pid, inodes) {
			return pid
		}
	}
	return 0
}

// boundInodes adds the inodes of the sockets of a /proc/net/{tcp,udp}{,6}
// table that hold p's host port: for TCP those that listen.
func boundInodes(table []byte, p Port, inodes map[string]bool) {
	const (
		colLocal, colState, colInode = 1, 3, 9
		tcpListen                    = "0A"
	)
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) <= colInode || (p.Protocol == "tcp" && f[colState] != tcpListen) {
			continue
		}
		_, port, ok := strings.Cut(f[colLocal], ":")
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(port, 16, 16); err == nil && uint16(n) == p.HostPort && f[colInode] != "0" {
			inodes["socket:["+f[colInode]+"]"] = true
		}
	}
}

func holdsSocket(pid int, inodes map[string]bool) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if l, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && inodes[l] {
			return true
		}
	}
	return false
}
