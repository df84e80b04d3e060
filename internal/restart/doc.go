// Package restart moves an instance to another host by weak mobility: its image, configuration
// and writable layer go along, its memory does not, and the workload is started afresh there
// (`hvctl migrate send --mode restart`).
//
// The protocol, its records and the rule of who may run the instance are package migrate's: here an
// instance is a machine without RAM, whose disks are the packed layer and, of a VM, its own (docs/migration-protocol.md,
// section 13). Both ends are commands, not owners: the source's stands the instance still and
// reads its layer through the owner, the destination's makes an instance and starts its owner.
package restart
