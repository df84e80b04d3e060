// Package container is an OCI runtime as a library: it creates, starts,
// signals, pauses, inspects and deletes containers from bundles, by the rules
// of the OCI runtime specification 1.x (runtime.md, config.md,
// config-linux.md). cmd/hvctl-oci is its command line.
//
// The bundle is hostile: its config.json is validated field by field before
// anything is made (Load, Validate), and its root file system is only ever
// touched through descriptors.
//
// A container is a directory below the state root, named after its ID: the
// record (state.json, replaced by rename), a copy of the configuration, and,
// until it is started, a socket on which the waiting process listens. The
// lock on the directory serializes everybody who changes the container; it is
// gone when its holder dies, so nothing that was killed blocks anything, and
// Delete with force cleans up after a death at any point.
//
// What happens inside the namespaces is decided here, written down as a plan
// (package container/plan), compiled into a program of system calls (package
// container/program) and carried out by a process that has nothing of ours in
// it (package container/steps, docs/adr/0010-programs-of-system-calls.md).
package container
