// Package work runs a user's own command in fresh instances of an image on
// several targets: on the host, in our containers and VMs, and by what is
// installed beside us, other OCI runtimes and QEMU. Each instance is charged as
// a whole: it lives in a control group of its own, everything that makes it and
// keeps it included. docs/bench-method.md says what is compared.
package work
