package main

import (
	"bytes"
	"os"
	"strconv"

	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/proctable"
)

// top serves MethodTop.
func (m *manager) top() (guestproto.Table, error) {
	m.mu.Lock()
	c := m.cgroup
	m.mu.Unlock()
	if c == nil {
		return guestproto.Table{}, stateErr("this guest kernel has no cgroups: the workload's processes are not known apart from the guest's own")
	}
	b, err := os.ReadFile(c.dir + "/cgroup.procs")
	if err != nil {
		return guestproto.Table{}, err
	}
	var pids []int
	for f := range bytes.FieldsSeq(b) {
		if pid, err := strconv.Atoi(string(f)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	ps, err := proctable.Read(pids)
	if err != nil {
		return guestproto.Table{}, err
	}
	t := guestproto.Table{Total: len(ps)}
	for _, p := range ps[:min(len(ps), guestproto.MaxListed)] {
		t.Processes = append(t.Processes, guestproto.Task{
			PID: p.PID, PPID: p.PPID, UID: p.UID, State: p.State, Threads: p.Threads, CPUNs: int64(p.CPU),
			RSSBytes: p.RSS, AgeNs: int64(p.Age), Command: guestproto.CleanText(p.Command),
		})
	}
	return t, nil
}
