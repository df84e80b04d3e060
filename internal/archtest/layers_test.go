package archtest_test

// layers says which of our packages each of our packages may import. Paths
// are relative to the module; "x/..." is x and everything below it; "*" is
// everything. Test files may import anything: tests join what the code keeps
// apart.
//
// Three facts carry the table. Packages kvm and memory do not know each other:
// the first speaks the kernel's numbers, the second the guest's addresses, and
// internal/machine joins them. Devices never import kvm, so that every device
// test runs without /dev/kvm. Package migrate declares the interface that it
// needs and internal/machine satisfies it by shape.
var layers = map[string]string{
	// Programs.
	"cmd/hvctl":     "*",
	"cmd/hvctl-vmm": "internal/confine migrate/lazy internal/ocivm internal/ocivm/inside internal/hostnet internal/microvm internal/supervisor internal/workload internal/seccomp",
	"cmd/hvctl-ctr": "internal/hostnet internal/instance internal/nscontainer internal/supervisor internal/userns internal/workload",
	"cmd/hvctl-net": "internal/cninet internal/supervisor internal/usernet",
	"cmd/hvctl-oci": "internal/ocivm container internal/cgroup internal/criu internal/criu/swrk internal/systemd internal/systemd/bus",
	"cmd/hvbench":   "internal/bench/probe",
	"cmd/hvdirty":   "internal/bench/migrate/beat",
	"cmd/hvprobe":   "internal/bench/device/probe internal/uring",
	"cmd/hvinit":    "internal/capability internal/archive internal/etcfiles internal/guestproto internal/proctable internal/upper",

	// The kernel's interface and the guest's memory: leaves.
	"kvm":         "",
	"memory":      "",
	"vcpu":        "kvm internal/state",
	"vcpu/cpuid":  "",
	"vcpu/paging": "",

	// Devices.
	"virtio":            "memory internal/state internal/bus internal/eventfd internal/metrics",
	"virtio/mmio":       "virtio memory internal/state internal/bus",
	"virtio/pci":        "virtio memory internal/state internal/bus internal/eventfd internal/pci",
	"virtio/balloon":    "virtio memory internal/state internal/metrics",
	"virtio/blk":        "virtio memory internal/overlay internal/qcow2 internal/state internal/metrics internal/uring",
	"virtio/console":    "virtio memory internal/state internal/metrics",
	"virtio/fs":         "virtio virtio/fs/hostdir memory internal/state internal/metrics",
	"virtio/fs/hostdir": "",
	"virtio/net":        "virtio virtio/vhostring memory internal/eventfd internal/polling internal/state internal/metrics internal/vhost",
	"virtio/mem":        "virtio memory internal/state internal/metrics",
	"virtio/pmem":       "virtio memory internal/state internal/metrics",
	"virtio/rng":        "virtio memory internal/state internal/metrics",
	"virtio/vhostring":  "virtio memory internal/vhost",
	"virtio/vsock":      "virtio virtio/vhostring memory internal/eventfd internal/state internal/metrics internal/vhost",
	"virtio/devices":    "virtio virtio/...",
	"virtio/virtiotest": "virtio virtio/mmio virtio/pci memory internal/state internal/bus internal/eventfd internal/pci",

	// The machine around them.
	"internal/acpi":     "memory",
	"internal/boot":     "memory",
	"internal/bus":      "",
	"internal/coredump": "memory migrate/sparse",
	"internal/polling":  "",
	"internal/qcow2":    "",
	"internal/overlay":  "",
	"internal/eventfd":  "internal/polling",
	"internal/gdbstub":  "",
	"internal/irq":      "kvm internal/eventfd",
	"internal/legacy":   "internal/state",
	"internal/metrics":  "",
	"internal/pci":      "memory internal/bus internal/state",
	"internal/state":    "",
	"internal/uring":    "",
	"internal/vhost":    "",
	"internal/uffd":     "",
	"internal/machine": "kvm vcpu/... memory virtio/... internal/acpi internal/boot internal/bus internal/coredump internal/eventfd " +
		"internal/gdbstub internal/irq internal/legacy internal/machine/limits internal/metrics internal/pci internal/state",
	"internal/machine/microguest": "",
	"internal/machine/limits":     "",
	"migrate":                     "memory internal/state migrate/...",
	"migrate/commit":              "",
	"migrate/handoff":             "internal/state migrate/wire",
	"migrate/lazy":                "internal/uffd memory migrate migrate/commit migrate/handoff migrate/snapshot migrate/transport",
	"migrate/plan":                "vcpu/cpuid",
	"migrate/rendezvous":          "migrate/handoff migrate/transport migrate/wire",
	"migrate/snapshot":            "memory internal/state migrate/sparse migrate/wire",
	"migrate/sparse":              "memory",
	"migrate/transport":           "migrate/handoff",
	"migrate/wire":                "memory internal/state",

	// Workloads and what runs them.
	"images":                         "images/...",
	"images/erofs":                   "",
	"images/kernel":                  "",
	"images/rootfs":                  "images/erofs",
	"container":                      "container/plan container/program container/steps internal/capability internal/cgroup internal/criu internal/plainjson internal/seccomp internal/systemd internal/userns",
	"container/plan":                 "",
	"container/program":              "container/plan container/steps",
	"container/steps":                "",
	"internal/workload":              "images internal/capability",
	"internal/moves":                 "internal/workload migrate migrate/commit migrate/plan",
	"internal/archive":               "",
	"internal/upper":                 "",
	"internal/spare":                 "images internal/workload migrate",
	"internal/restart":               "internal/control internal/instance internal/moves internal/spare internal/state internal/supervisor/launch internal/workload memory migrate migrate/commit migrate/plan",
	"internal/etcfiles":              "",
	"internal/proctable":             "",
	"internal/criu":                  "",
	"internal/systemd":               "internal/cgroup",
	"internal/systemd/bus":           "internal/systemd internal/userns",
	"internal/criu/swrk":             "internal/criu",
	"internal/plainjson":             "",
	"internal/workload/workloadtest": "internal/archive internal/proctable internal/control internal/instance internal/supervisor/launch internal/workload",
	"internal/microvm": "internal/confine internal/spare internal/moves virtio virtio/... memory migrate/... internal/agent internal/cgroup internal/gdbstub internal/guestproto internal/hostnet " +
		"internal/initrd internal/instance internal/machine internal/metrics internal/seccomp internal/state internal/uffd internal/workload",
	"internal/ocivm":           "",
	"internal/ocivm/config":    "internal/guestproto internal/workload",
	"internal/ocivm/inside":    "internal/hostnet internal/microvm internal/ocivm internal/ocivm/config internal/workload",
	"internal/microvm/prepare": "internal/boot internal/guestproto internal/ocivm/config internal/cgroup images images/kernel internal/initrd internal/machine/limits internal/workload",
	"internal/nscontainer": "container internal/upper migrate/commit internal/archive internal/cgroup internal/etcfiles internal/hostnet internal/proctable " +
		"internal/seccomp internal/userns internal/workload",
	"internal/nscontainer/prepare": "container internal/cgroup internal/doctor internal/etcfiles internal/nscontainer internal/userns internal/workload",
	"internal/agent":               "internal/guestproto",
	"internal/guestproto":          "",
	"internal/initrd":              "",
	"internal/hostnet":             "internal/polling",
	"internal/usernet":             "internal/hostnet internal/seccomp",
	"internal/cninet":              "internal/hostnet",
	"internal/userns":              "",
	"internal/capability":          "",
	"internal/cgroup":              "",
	"internal/confine":             "internal/capability internal/seccomp",
	"internal/confine/hostile":     "",
	"internal/seccomp":             "",
	"internal/config":              "",
	"internal/instance":            "internal/workload",
	"internal/exposition":          "internal/workload",
	"internal/control":             "internal/exposition internal/workload",
	"internal/doctor":              "internal/capability kvm",
	"internal/snapshots":           "internal/workload migrate/snapshot",
	"internal/supervisor":          "internal/cgroup internal/control internal/exposition internal/instance internal/workload migrate/handoff",
	"internal/supervisor/launch":   "internal/cgroup internal/control internal/instance internal/userns internal/workload migrate/handoff",

	// Tests and tools.
	"internal/archtest":           "",
	"internal/bench":              "internal/workload internal/metrics",
	"internal/bench/start":        "internal/bench/record container/steps",
	"internal/bench/snapshot":     "internal/bench/record internal/machine internal/machine/microguest internal/state memory migrate/snapshot virtio",
	"internal/bench/upgrade":      "internal/bench/record internal/machine internal/machine/microguest memory migrate/handoff virtio",
	"internal/bench/device":       "internal/bench/record internal/bench/device/probe internal/workload internal/boot internal/initrd images/kernel",
	"internal/bench/device/probe": "",
	"internal/bench/boot":         "internal/bench/record internal/workload internal/agent internal/bench/qemuvm internal/boot internal/guestproto",
	"internal/bench/qemuvm":       "internal/guestproto internal/workload",
	"internal/bench/apps":         "",
	"internal/bench/work":         "internal/agent internal/bench/qemuvm internal/bench/result internal/boot internal/cgroup internal/etcfiles internal/guestproto internal/instance internal/nscontainer internal/supervisor/launch internal/workload",
	"internal/bench/record":       "",
	"internal/bench/probe":        "",
	"internal/bench/stats":        "",
	"internal/bench/result":       "",
	"internal/bench/equiv":        "internal/bench/result",
	"internal/bench/run":          "images internal/bench/equiv internal/bench/probe internal/bench/result internal/bench/stats internal/cgroup internal/instance internal/supervisor/launch internal/workload migrate migrate/handoff migrate/transport",
	"internal/bench/report":       "internal/bench/equiv internal/bench/plot internal/bench/result internal/bench/stats",
	"internal/bench/plot":         "",

	"internal/bench/migrate":      "internal/bench/record internal/bench/migrate/beat internal/boot internal/initrd internal/machine migrate migrate/commit migrate/sparse migrate/transport virtio",
	"internal/bench/migrate/beat": "",

	"internal/e2e":        "",
	"internal/ociattack":  "",
	"internal/critest":    "",
	"internal/ociclients": "internal/critest",
	"internal/ociconf":    "",
	"internal/ocisystemd": "internal/critest",
	"internal/testenv":    "",
	"scripts/ociconf":     "internal/ociconf",
	"scripts/testreport":  "",
}

// thirdPartyOnlyInTests may not be imported by code that is shipped.
var thirdPartyOnlyInTests = map[string]string{
	"github.com/bobuhiro11/gokvm": "it is a test oracle for package kvm: slow paths, panics on a guest's error",
}

// mayBeUnsafe are the packages that may import unsafe in any file; elsewhere
// only files named *_unsafe.go may.
var mayBeUnsafe = map[string]bool{"kvm": true, "memory": true}
