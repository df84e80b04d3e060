package kvm

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// cpuidHeader is struct kvm_cpuid2 without its flexible array.
type cpuidHeader struct {
	Nent    uint32
	Padding uint32
}

// CPUIDEntry is struct kvm_cpuid_entry2: the answer to CPUID for one leaf
// (Function) and sub-leaf (Index).
type CPUIDEntry struct {
	Function           uint32
	Index              uint32
	Flags              uint32 // CPUIDFlagSignificantIndex
	EAX, EBX, ECX, EDX uint32
	Padding            [3]uint32
}

// CPUIDFlagSignificantIndex is KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the entry is
// for its sub-leaf only. Without it Index is ignored.
const CPUIDFlagSignificantIndex = 1

// cpuidMin is the room for the first try, above what hosts of 2024 report
// (about 80); maxCPUID ends the growing. KVM itself stops at 256.
const (
	cpuidMin = 128
	maxCPUID = 4096
)

// SupportedCPUID returns the CPUID leaves that KVM can give a guest on this
// host (KVM_GET_SUPPORTED_CPUID). APIC ids and topology in it are those of the
// host CPU it happened to run on: the caller replaces them.
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	return growCPUID(&s.fd, &reqGetSupportedCPUID, cpuidMin)
}

// EmulatedCPUID returns leaves with the features that KVM emulates although
// the host lacks them (KVM_GET_EMULATED_CPUID).
func (s *System) EmulatedCPUID() ([]CPUIDEntry, error) {
	e, err := growCPUID(&s.fd, &reqGetEmulatedCPUID, cpuidMin)
	return e, explain(err, s, CapExtEmulCPUID)
}

// CPUID returns the leaves set with SetCPUID (KVM_GET_CPUID2), as KVM keeps
// them: some bits follow the guest's state, for example OSXSAVE.
func (v *VCPU) CPUID() ([]CPUIDEntry, error) { return v.cpuid(cpuidMin) }

func (v *VCPU) cpuid(room int) ([]CPUIDEntry, error) {
	e, err := growCPUID(&v.fd, &reqGetCPUID2, room)
	// Kernels before 6.3 or so leave nent as it was: what they did not fill is
	// still zero, which no entry of a table that makes sense is (leaf 0 says
	// which leaves there are).
	for len(e) > 0 && e[len(e)-1] == (CPUIDEntry{}) {
		e = e[:len(e)-1]
	}
	return e, err
}

// SetCPUID sets what CPUID tells the guest (KVM_SET_CPUID2). Do it before the
// MSRs, the XCRs and the first Run: KVM checks them against it. After the first
// Run KVM takes only the same leaves again.
func (v *VCPU) SetCPUID(entries []CPUIDEntry) error {
	f := newFAM[cpuidHeader, CPUIDEntry](len(entries))
	f.header().Nent = uint32(len(entries))
	copy(f.entries(), entries)
	if err := set(&v.fd, &reqSetCPUID2, f.header()); err != nil {
		return fmt.Errorf("%d CPUID entries: %w", len(entries), err)
	}
	return nil
}

// growCPUID makes an ioctl that fills a list and says E2BIG while there is too
// little room, starting with room for n entries.
func growCPUID(fd *fd, r *request, n int) ([]CPUIDEntry, error) {
	for {
		f := newFAM[cpuidHeader, CPUIDEntry](n)
		f.header().Nent = uint32(n)
		err := set(fd, r, f.header())
		if err == nil {
			return f.entries()[:min(int(f.header().Nent), n)], nil
		}
		// Some kernels say in Nent how many there are, some do not.
		if !errors.Is(err, unix.E2BIG) || n >= maxCPUID {
			return nil, err
		}
		n = min(max(2*n, int(f.header().Nent)), maxCPUID)
	}
}
