package plan

// None is the number of a descriptor that is not there.
const None = -1

// Plan is all there is to know.
type Plan struct {
	Join        []Join // namespaces to enter, in this order
	Unshare     uint32 // CLONE_NEW* flags to make once the cgroup is right
	TimeOffsets string // for the new time namespace, as the kernel reads them
	UserNS      bool   // the container has a user namespace that is not the host's

	Root         Root
	Mounts       []Mount
	Devices      []Device
	DevDefaults  bool // links and ptmx in /dev
	Masked       []string
	ReadOnly     []string
	MountLabel   string // SELinux context of the file systems that are made; empty: the policy's
	Sysctl       []Pair
	Hostname     string
	Domainname   string
	RuntimeHooks bool // stop for the runtime's hooks before the root is entered

	NewKeyring string // name of the session keyring; empty: none is made
	Process    *Process
}

// Join is a namespace to enter.
type Join struct {
	FD   int32
	Flag uint32 // CLONE_NEW*
}

// Pair is a name and a value.
type Pair struct{ Key, Value string }

// Root is the root file system.
type Root struct {
	Path        string
	ReadOnly    bool
	NoPivot     bool
	Propagation uint64 // MS_*, 0: private
	Mount       string // with MS_SHARED: the host's mount that Path is in
	Remain      bool   // there is no mount namespace: only chroot
}

// Mount kinds.
const (
	FileSystem = 1 // a new file system of type Type
	Bind       = 2 // an existing tree
	Cgroup     = 3 // the container's view of the cgroup hierarchies
)

// Mount is one entry of the container's mounts.
type Mount struct {
	Kind        uint32
	Type        string
	Source      string
	Dest        string
	SourceFD    int32  // tree opened by the runtime, or None
	Recursive   bool   // of a bind
	AttrSet     uint64 // MOUNT_ATTR_* of the mount
	AttrClear   uint64
	RecSet      uint64 // the same for the whole tree
	RecClear    uint64
	Propagation []uint64 // MS_* (with MS_REC), in order
	Options     []Pair   // of the file system; a flag has no value
	CopyUp      bool     // tmpfs gets a copy of what it hides
	Cgroups     []Pair   // v1: directory below the destination → source; v2: "" → source
	NoFollow    bool     // a symbolic link at the source is the source itself
}

// Device is one device file.
type Device struct {
	Path         string
	Mode         uint32 // with the type's bits
	Major, Minor uint32
	UID, GID     uint32
}

// Hook is one program to run.
type Hook struct {
	Path          string
	Args, Env     []string
	TimeoutMillis uint32 // 0: none
}

// Process is the program and what it is allowed.
type Process struct {
	Args, Env      []string
	Cwd            string
	Terminal       bool
	Columns, Rows  uint32
	UID, GID       uint32
	Groups         []uint32
	SetGroups      bool // setgroups(2) is permitted
	Umask          uint32
	HasUmask       bool
	HasCaps        bool
	Caps           Caps
	NoNewPrivs     bool
	Rlimits        []Rlimit
	AppArmor       string
	SELinux        string
	Seccomp        []byte // encoded program
	SeccompFlags   uint32
	Personality    uint64
	HasPersonality bool
	HasScheduler   bool
	Scheduler      Scheduler
	IOPriority     uint32 // as ioprio_set(2) wants it
	HasIOPriority  bool
	Affinity       []uint32 // processors, empty: as it is
	KeepFDs        uint32   // how many further descriptors the program gets, from 3 on
	ByFD           bool     // descriptor 3 is the program; Args[0] is but its name
	DieWithParent  bool     // SIGKILL when the runtime's process ends
}

// Caps are the five capability sets.
type Caps struct{ Bounding, Effective, Permitted, Inheritable, Ambient uint64 }

// Rlimit is one resource limit.
type Rlimit struct {
	Name       string // for messages
	Resource   uint32
	Soft, Hard uint64
}

// Scheduler is struct sched_attr.
type Scheduler struct {
	Policy                    uint32
	Flags                     uint64
	Nice                      int32
	Priority                  uint32
	Runtime, Deadline, Period uint64
}
