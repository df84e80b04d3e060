// Package ocivm is how a container engine's bundle runs as a microVM
// (hvctl-oci-vm): the container that the OCI runtime makes, with its
// namespaces, mounts, cgroup and terminal, holds not the bundle's program but
// the process that owns a VM, and the guest sees the container's file tree
// through virtio-fs and has the container's network interface. What an engine
// does to the container (volumes, networks, limits, signals, waiting) therefore
// reaches the VM without its knowing.
//
// This package is the contract between the three programs that take part:
// hvctl-oci makes the container and the descriptors below, hvctl finds the
// kernel and checks the configuration (hvctl oci-config), hvctl-vmm runs in the
// container (package internal/ocivm/inside).
//
// A pod has one VM (docs/adr/0015-one-vm-in-a-pod.md): its owner runs in the
// sandbox's container, and in that of each member a client, which hands the owner
// the container's tree and stands for its first process.
package ocivm

import (
	"encoding/json"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Descriptors of the owner process in the container, beside its standard
// streams. A guest that took the owner over could use them: files and
// directories of the host are roots of mounts of their own, from which no ".."
// leads further, and read-only but for the logs.
const (
	FDProgram = 3 + iota // hvctl-vmm itself
	FDConfig             // a config.Config, as JSON
	FDKernel             // the guest's kernel
	FDInitrd             // its initramfs
	FDKVM                // /dev/kvm, open
	FDTun                // /dev/net/tun, opened in the network namespace, or with O_PATH to be opened inside
	FDExec               // a listening socket: see Request
	FDState              // a directory of the host for logs
	FDCache              // a directory of the host with unpacked kernels
	fdEnd
)

// Descriptors is how many there are.
const Descriptors = fdEnd - FDProgram

// Descriptors of a client: of an exec, or of a member of a pod.
const (
	FDExecProgram = 3 + iota // hvctl-vmm
	FDExecSocket             // a connection to the owner's FDExec
	FDExecRequest            // the first Request, as JSON
)

// Program is what the owner and the clients are called.
const Program = "hvctl-vmm"

// Verbs of hvctl-vmm in a container.
const (
	VerbOwn  = "oci"
	VerbPod  = "oci-pod" // VerbOwn, of a pod
	VerbExec = "oci-exec"
	VerbJoin = "oci-join" // VerbExec, of a member of a pod
)

// Flags of hvctl oci-config, for a sandbox that is to hold a pod's VM, and for a
// member.
const (
	FlagPod    = "pod"
	FlagMember = "member"
)

// MaxConfig bounds the owner's configuration and a request, in bytes.
const MaxConfig = 4 << 20

// Messages of an exec's connection, JSON values one after the other. The first
// is a Request with the three standard streams as SCM_RIGHTS, and, from a member
// of a pod, its root directory. The end of a member's connection is the end of
// that container.

// What a Request can ask for beside a process.
const (
	Pause  = "pause"
	Resume = "resume"
	Remove = "remove" // Container, in a pod; answered when its root is not used any more
)

// Request is what the client says: first Process or Join, then Signal or a size;
// or Do alone.
type Request struct {
	Do string `json:"do,omitempty"`
	// Container is the one of a pod that is meant: its ID.
	Container string `json:"container,omitempty"`
	// Join is a config.Member.
	Join    json.RawMessage `json:"join,omitempty"`
	Process *specs.Process  `json:"process,omitempty"`
	Signal  int             `json:"signal,omitempty"`
	Columns uint16          `json:"columns,omitempty"`
	Rows    uint16          `json:"rows,omitempty"`
}

// Reply is what the owner says, once: how it ended, or why it never ran.
type Reply struct {
	Code  int    `json:"code"`
	Error string `json:"error,omitempty"`
}
