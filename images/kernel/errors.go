package kernel

import "errors"

var (
	// ErrNotFound says that the store has no kernel of that name.
	ErrNotFound = errors.New("kernel not found")
	// ErrNotKernel says that a file is not an x86-64 Linux kernel, or is a
	// damaged one.
	ErrNotKernel = errors.New("not a usable kernel")
	// ErrArch is wrapped, beside ErrNotKernel, for a kernel of another
	// architecture or a 32-bit one.
	ErrArch = errors.New("wrong architecture")
	// ErrBadName says that a name cannot be a kernel's.
	ErrBadName = errors.New("bad kernel name")
	// ErrBadModules says that a module directory cannot be used.
	ErrBadModules = errors.New("bad kernel modules")
	// ErrUnknownModule says that a kernel neither has a module of that name
	// nor has it built in.
	ErrUnknownModule = errors.New("unknown kernel module")
	// ErrBadPackage says that a Debian package is damaged or is not one of a
	// kernel.
	ErrBadPackage = errors.New("bad kernel package")
	// ErrFetch says that the host's apt could not deliver a package.
	ErrFetch = errors.New("kernel package not fetched")
)
