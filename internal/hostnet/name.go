package hostnet

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"path/filepath"
)

// The default root's bridge; other roots get a name of their own so that two
// of them never share one.
const (
	defaultRoot   = "/run/hvctl"
	defaultBridge = "hvctl0"
)

// DefaultBridge is the bridge of the instances under root when none is named.
func DefaultBridge(root string) string {
	if root = filepath.Clean(root); root != defaultRoot {
		return "hvctl-" + digest("bridge", root)[:9]
	}
	return defaultBridge
}

// DeriveMAC is the MAC address of instance id: locally administered, unicast
// and always the same.
func DeriveMAC(id string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("mac\x00" + id))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2 // IEEE 802: group bit off, local bit on
	return mac
}

// linkName is the name of the host's side of the link of instance id. It
// shows the start of an ID of hex digits as such.
func linkName(id string) string {
	if len(id) == 64 {
		if _, err := hex.DecodeString(id); err == nil {
			return "hv-" + id[:12]
		}
	}
	return "hv-" + digest("link", id)[:12]
}

func digest(kind, s string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + s))
	return hex.EncodeToString(sum[:])
}

func validMAC(m net.HardwareAddr) bool {
	var zero [6]byte
	return len(m) == 6 && m[0]&1 == 0 && string(m) != string(zero[:])
}
