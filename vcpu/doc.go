// Package vcpu runs virtual CPUs: one locked OS thread each, which creates the
// KVM vCPU, makes every ioctl on it, and passes port I/O and MMIO exits to the
// buses it was given.
//
// A VCPU is parked or running. Everybody but its own thread talks to it
// through requests (Resume, Park, Do, Stop); a request kicks the vCPU out of
// the guest, so it is answered at once even when the guest spins.
//
// CPUID policy is in package vcpu/cpuid.
package vcpu
