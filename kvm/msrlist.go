package kvm

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// msrListHeader is struct kvm_msr_list without its flexible array.
type msrListHeader struct {
	NMSRs uint32
}

// MSRIndexList returns the MSRs that this host's KVM can save and restore
// (KVM_GET_MSR_INDEX_LIST). Which of them a vCPU has depends on its CPUID, and
// some that a guest can use are not in it.
func (s *System) MSRIndexList() ([]uint32, error) {
	return growMSRList(&s.fd, &reqGetMSRIndexList, 64)
}

// MSRFeatureIndexList returns the MSRs that FeatureMSRs can read
// (KVM_GET_MSR_FEATURE_INDEX_LIST).
func (s *System) MSRFeatureIndexList() ([]uint32, error) {
	l, err := growMSRList(&s.fd, &reqGetMSRFeatureIndexList, 64)
	return l, explain(err, s, CapGetMSRFeatures)
}

// growMSRList makes an ioctl that fills a list and says E2BIG and the right
// number while there is too little room, starting with room for n.
func growMSRList(fd *fd, r *request, n int) ([]uint32, error) {
	const most = 1 << 16
	for {
		f := newFAM[msrListHeader, uint32](n)
		f.header().NMSRs = uint32(n)
		err := set(fd, r, f.header())
		if err == nil {
			return slices.Clone(f.entries()[:min(int(f.header().NMSRs), n)]), nil
		}
		if !errors.Is(err, unix.E2BIG) || n >= most {
			return nil, err
		}
		n = min(max(2*n, int(f.header().NMSRs)), most)
	}
}
