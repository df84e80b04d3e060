// Package bus speaks to systemd over D-Bus (org.freedesktop.systemd1(5)). What it
// links would make every start of hvctl-oci slower, so only hvctl-oci-full links
// it.
package bus
