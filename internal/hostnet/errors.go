package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
)

var (
	// ErrOptions means Options hold something impossible.
	ErrOptions = errors.New("bad network options")
	// ErrPermission means the process may not change the host's network.
	ErrPermission = errors.New("no permission to change the host's network")
	// ErrPortInUse means a host port to publish is taken.
	ErrPortInUse = errors.New("port is in use")
	// ErrAddressInUse means the wanted address or MAC is another instance's.
	ErrAddressInUse = errors.New("address is in use")
	// ErrExhausted means every address of the bridge's network is leased.
	ErrExhausted = errors.New("no free address")
	// ErrSubnet means no network for the bridge was found, or the wanted one
	// overlaps a network the host already reaches.
	ErrSubnet = errors.New("no usable network")
	// ErrInterface means a network interface is not what it must be.
	ErrInterface = errors.New("unusable network interface")
	// ErrNAT means nftables refused our table.
	ErrNAT = errors.New("nftables refused the NAT rules")
	// ErrState means the lease file cannot be understood.
	ErrState = errors.New("network state is damaged")
)

// wrap adds what was being done to err, and says what to do when it is a lack
// of privileges.
func wrap(what string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: %s: %w; run as root or choose --network user", ErrPermission, what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// wrapNil is wrap, and nil of nil.
func wrapNil(what string, err error) error {
	if err == nil {
		return nil
	}
	return wrap(what, err)
}
