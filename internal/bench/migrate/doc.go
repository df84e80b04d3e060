// Package migrate measures live migration over a link of a given rate, between
// two network namespaces: of hvctl's machines and, with the same kernel, guest,
// memory and link, of QEMU's. Every figure is taken from outside in the same way
// for both: the link's own counters, and the guest's memory files, in which the
// guest is seen to live (package beat). See docs/bench-method.md.
package migrate
