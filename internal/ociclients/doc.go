// Package ociclients holds the tests that use our OCI runtime the way people
// do: through podman and through containerd's ctr, both as Debian ships them.
// There is no code here but tests.
//
// They run in the test host (cgroup v2, all capabilities). The runtime is
// HVCTL_BIN/hvctl-oci; HVCTL_OCI names another one, such as /usr/bin/crun, to
// tell a client's fault from ours.
package ociclients
