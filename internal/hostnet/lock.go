package hostnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock takes the lock of the state root, which guards the lease file, the
// bridge and the nftables table. It waits while ctx allows.
func lock(ctx context.Context, root string) (unlock func(), err error) {
	dir := filepath.Join(root, "net")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, wrap("make the network's state directory", err)
	}
	fd, err := unix.Open(filepath.Join(dir, "lock"), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, wrap("open the network's lock", &os.PathError{Op: "open", Path: filepath.Join(dir, "lock"), Err: err})
	}
	// Free almost always: try without the detour first.
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == nil {
		return func() { unix.Close(fd) }, nil
	}
	got := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(fd, unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				got <- err
				return
			}
		}
	}()
	select {
	case err = <-got:
		if err != nil {
			unix.Close(fd)
			return nil, os.NewSyscallError("flock", err)
		}
		return func() { unix.Close(fd) }, nil
	case <-ctx.Done():
		// The lock comes some time; give it back then.
		go func() { <-got; unix.Close(fd) }() //nolint:errcheck // locked or not, it is over
		return nil, fmt.Errorf("wait for the lock %s, held by another hvctl: %w", filepath.Join(dir, "lock"), context.Cause(ctx))
	}
}
