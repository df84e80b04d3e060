// Package ociconf runs the validation programs of OCI runtime-tools against
// OCI runtimes, judges their output and renders the comparison as a table.
//
// The programs are built by scripts/conformance-tools from a pinned version.
// Their exit status says nothing (it is 0 when tests fail), some of them print
// no verdict at all, and they leave mounts, processes and cgroups behind. So
// each runs in mount and PID namespaces of its own, with a private /run, and
// its output is judged by the rules at Judge.
//
// scripts/conformance writes what it finds to docs/results and
// docs/conformance.md; the test of this package holds hvctl-oci to it.
package ociconf
