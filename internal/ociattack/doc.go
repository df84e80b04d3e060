// Package ociattack holds tests that attack the OCI runtime from outside: by
// images, configurations and processes in containers that mean harm, through
// the program hvctl-oci and nothing else. There is no code here but tests.
//
// Each attack shows that it could succeed: it is also run against something
// that defends itself less (a plain program in its place, a path opened
// without care), or it records that it reached its target. A test that cannot
// fail proves nothing.
//
// The runtime is HVCTL_BIN/hvctl-oci; HVCTL_OCI names another one, such as
// /usr/sbin/runc, to see how that does.
package ociattack
