package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// DevicePath is where KVM lives.
const DevicePath = "/dev/kvm"

// APIVersion is the one version of the KVM API there will ever be.
const APIVersion = 12

// System is an open /dev/kvm. Its methods may be called from any goroutine.
type System struct {
	fd       fd
	mmapSize int // bytes of a vCPU's mapping
}

// Open opens /dev/kvm. The error says what to do; it wraps fs.ErrNotExist when
// the host has no KVM, fs.ErrPermission when the user may not use it, and
// ErrAPIVersion when the device speaks something else.
func Open() (*System, error) { return OpenDevice(DevicePath) }

// OpenDevice is Open for a device elsewhere, such as one bind-mounted into a
// sandbox.
func OpenDevice(path string) (*System, error) {
	n, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		perr := &fs.PathError{Op: "open", Path: path, Err: err}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("%w: load kvm-intel or kvm-amd, and enable virtualization in the firmware or nested virtualization in the outer hypervisor", perr)
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("%w: run as root or join the group that owns the device, usually kvm", perr)
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
			return nil, fmt.Errorf("%w: the kvm module is loaded but no vendor module is: load kvm-intel or kvm-amd", perr)
		}
		return nil, perr
	}
	return NewSystem(n)
}

// Adopt is Open for a device that is open already, such as one passed by a
// parent process. The descriptor is duplicated; f stays the caller's.
func Adopt(f *os.File) (*System, error) {
	n, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return NewSystem(n)
}

// NewSystem takes ownership of an open descriptor of /dev/kvm; on error it is
// closed. The caller has set
// close-on-exec.
func NewSystem(n int) (*System, error) {
	s := &System{}
	s.fd.init(n, "kvm")
	v, err := s.fd.call(&reqGetAPIVersion, 0)
	if err == nil && v != APIVersion {
		err = fmt.Errorf("%w: %d, want %d", ErrAPIVersion, v, APIVersion)
	} else if errors.Is(err, unix.ENOTTY) {
		err = fmt.Errorf("%w: not a KVM device: %w", ErrAPIVersion, err)
	}
	if err == nil {
		s.mmapSize, err = s.fd.call(&reqGetVCPUMmapSize, 0)
	}
	if err == nil && s.mmapSize < minRunMapping {
		err = fmt.Errorf("KVM_GET_VCPU_MMAP_SIZE: %d bytes, want at least %d", s.mmapSize, minRunMapping)
	}
	if err != nil {
		_ = s.Close() // the first error is the one to tell
		return nil, err
	}
	return s, nil
}

// Close releases /dev/kvm; VMs created from it live on. It is idempotent.
func (s *System) Close() error { return s.fd.close() }

// CheckExtension returns what KVM says of a capability: 0 when it is missing,
// otherwise 1 or a value that the capability defines (KVM_CHECK_EXTENSION).
// Some capabilities depend on the VM: ask the VM where there is one.
func (s *System) CheckExtension(c Cap) (int, error) {
	return s.fd.call(&reqCheckExtension, uintptr(c))
}

// Require returns nil when KVM has every capability, else a *CapError naming
// the first that it lacks.
func (s *System) Require(caps ...Cap) error { return require(s, caps) }

// Caps takes a snapshot of all capabilities that this package knows.
func (s *System) Caps() (Caps, error) { return snapshotCaps(s) }

// VCPUMmapSize returns the size in bytes of the mapping of a vCPU.
func (s *System) VCPUMmapSize() int { return s.mmapSize }

// MCECapSupported returns the machine check capabilities that SetupMCE may be
// given (KVM_X86_GET_MCE_CAP_SUPPORTED).
func (s *System) MCECapSupported() (uint64, error) { return get[uint64](&s.fd, &reqGetMCECap) }

// CreateVM makes a VM without memory, vCPUs or interrupt controllers
// (KVM_CREATE_VM, default machine type). The error is ENOMEM or EMFILE when
// the host is out of something.
func (s *System) CreateVM() (*VM, error) {
	n, err := s.fd.call(&reqCreateVM, 0)
	if err != nil {
		return nil, err
	}
	// KVM opens all its descriptors close-on-exec.
	vm := &VM{mmapSize: s.mmapSize}
	vm.fd.init(n, "kvm-vm")
	return vm, nil
}
