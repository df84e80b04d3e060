// Package ocisystemd holds tests that run hvctl-oci --systemd-cgroup under a real
// systemd, booted as PID 1 of namespaces of its own, with a manager for a user
// in it. There is no code here but tests.
package ocisystemd
