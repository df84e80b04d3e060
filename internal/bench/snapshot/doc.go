// Package snapshot measures what it costs to save and restore a machine, with a
// guest of a few instructions, so that nothing but the VMM, KVM and the host's
// memory is in the figures. Every figure is of the machine it was taken on; the
// result carries its kind (Mode).
package snapshot
