package boot

import "errors"

var (
	// ErrKernel is wrapped when a file is not a kernel that can be booted:
	// the wrong kind of file, the wrong architecture, or a damaged one.
	ErrKernel = errors.New("unusable kernel")
	// ErrCompression is wrapped, together with ErrKernel, when a bzImage is
	// packed in a way that is not supported.
	ErrCompression = errors.New("unsupported kernel compression")
	// ErrMemory is wrapped when the guest's RAM cannot hold what has to be
	// loaded. The message says how much is needed.
	ErrMemory = errors.New("guest memory too small")
	// ErrCmdline is wrapped when the kernel command line cannot be passed on.
	ErrCmdline = errors.New("bad kernel command line")
	// ErrParams is wrapped when Params contradict each other or the kernel:
	// a caller's mistake, or a protocol the kernel does not have.
	ErrParams = errors.New("bad boot parameters")
)
