package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/ocivm"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// podMark, in a VM's directory, names the sandbox whose owner runs the container:
// in the sandbox's own directory itself.
const podMark = "pod"

// podOf is the sandbox in whose VM the container called id is; empty: it has a VM
// of its own, or none.
func (a *app) podOf(id string) string {
	b, err := os.ReadFile(filepath.Join(a.vmDir(id), podMark))
	if err != nil {
		return ""
	}
	return string(b)
}

// member is the ID by which a pod's owner knows a container; empty: it is not one
// of a pod.
func (a *app) member(id string) string {
	if pod := a.podOf(id); pod != "" && pod != id {
		return id
	}
	return ""
}

// sandboxOf finds the pod that a container is to be in: that whose network
// namespace it is given, for that network is the VM's. Empty: there is none.
func (a *app) sandboxOf(r *container.Runtime, s *specs.Spec) (string, error) {
	path := namespacePath(s, specs.NetworkNamespace)
	if path == "" {
		return "", nil
	}
	var want unix.Stat_t
	if err := unix.Stat(path, &want); err != nil {
		return "", &os.PathError{Op: "network namespace", Path: path, Err: err}
	}
	dirs, err := os.ReadDir(filepath.Dir(a.vmDir("any")))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	for _, d := range dirs {
		id := d.Name()
		if a.podOf(id) != id {
			continue
		}
		st, err := r.State(id)
		if err != nil || st.PID == 0 {
			continue // it has ended, or is being made
		}
		var ns unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", st.PID), &ns) == nil && ns.Dev == want.Dev && ns.Ino == want.Ino {
			return id, nil
		}
	}
	return "", nil
}

func namespacePath(s *specs.Spec, t specs.LinuxNamespaceType) string {
	if s.Linux == nil {
		return ""
	}
	for _, n := range s.Linux.Namespaces {
		if n.Type == t {
			return n.Path
		}
	}
	return ""
}

// hasNetwork tells whether a container has a network namespace, new or by path.
func hasNetwork(s *specs.Spec) bool {
	if s.Linux == nil {
		return false
	}
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			return true
		}
	}
	return false
}

// memberFiles are the descriptors of a client that joins a pod.
func (a *app) memberFiles(id, pod string, s *specs.Spec) ([]*os.File, error) {
	raw, err := a.askHvctl(s, "--"+ocivm.FlagMember, id)
	if err != nil {
		return nil, err
	}
	return a.clientFiles(pod, ocivm.Request{Container: id, Join: bytes.TrimSpace(raw)})
}

// clientFiles are the descriptors of a client of the VM in the container called
// owner, which begins with the request r.
func (a *app) clientFiles(owner string, r ocivm.Request) ([]*os.File, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	vmm, err := helper("hvctl-vmm")
	if err != nil {
		return nil, err
	}
	program, err := readOnly(vmm)
	if err != nil {
		return nil, err
	}
	conn, err := a.dialVM(owner)
	if err != nil {
		return nil, err
	}
	request, err := memfd("request", b)
	if err != nil {
		return nil, err
	}
	return []*os.File{program, conn, request}, nil
}

// podOuterSpec is outerSpec in a pod. A sandbox's own limits are for a program that
// waits, not for a VM; a member's are kept by the guest, and not for the client.
func podOuterSpec(s *specs.Spec, verb string) *specs.Spec {
	o := outerSpec(s, verb)
	o.Linux.Resources.CPU, o.Linux.Resources.Memory, o.Linux.Resources.Pids = nil, nil, nil
	return o
}
