package kvm

import (
	"fmt"
	"runtime"
	"unsafe"
)

// msrsHeader is struct kvm_msrs without its flexible array.
type msrsHeader struct {
	NMSRs uint32
	Pad   uint32
}

// MSREntry is struct kvm_msr_entry.
type MSREntry struct {
	Index    uint32
	Reserved uint32
	Data     uint64
}

// msrBatch is how many MSRs one ioctl takes: the kernel refuses 256
// (MAX_IO_MSRS) and more.
const msrBatch = 255

// MSRError says which MSR KVM refused. Entries before it were done, entries
// from it on were not.
type MSRError struct {
	Op    string // KVM_GET_MSRS or KVM_SET_MSRS
	Index uint32 // the MSR that was refused
	Data  uint64 // the value it was not set to
	Done  int    // how many entries were done
	Total int
}

// Error implements error.
func (e *MSRError) Error() string {
	if e.Op == reqSetMSRs.name {
		return fmt.Sprintf("%s: KVM refused %s = %#x (%d of %d done)", e.Op, MSRName(e.Index), e.Data, e.Done, e.Total)
	}
	return fmt.Sprintf("%s: KVM refused %s (%d of %d done)", e.Op, MSRName(e.Index), e.Done, e.Total)
}

// MSRs fills in the Data of every entry (KVM_GET_MSRS). It returns how many it
// did; when KVM refuses one the error is an *MSRError naming it.
func (v *VCPU) MSRs(entries []MSREntry) (done int, err error) {
	return msrCall(&v.fd, &reqGetMSRs, entries)
}

// SetMSRs sets MSRs in the order given (KVM_SET_MSRS). It returns how many it
// did; when KVM refuses one the error is an *MSRError naming it, and the caller
// may skip it and go on with entries[done+1:].
func (v *VCPU) SetMSRs(entries []MSREntry) (done int, err error) {
	return msrCall(&v.fd, &reqSetMSRs, entries)
}

// FeatureMSRs fills in the values of MSRs that describe what KVM supports
// (KVM_GET_MSRS on /dev/kvm); see MSRFeatureIndexList.
func (s *System) FeatureMSRs(entries []MSREntry) (done int, err error) {
	done, err = msrCall(&s.fd, &reqGetMSRs, entries)
	return done, explain(err, s, CapGetMSRFeatures)
}

func msrCall(fd *fd, r *request, entries []MSREntry) (done int, err error) {
	for done < len(entries) {
		batch := entries[done:min(done+msrBatch, len(entries))]
		f := newFAM[msrsHeader, MSREntry](len(batch))
		f.header().NMSRs = uint32(len(batch))
		copy(f.entries(), batch)
		n, err := callPtr(fd, r, f.header())
		if err != nil {
			return done, err
		}
		n = min(n, len(batch))
		if r == &reqGetMSRs {
			copy(batch[:n], f.entries())
		}
		done += n
		if n < len(batch) {
			return done, &MSRError{
				Op: r.name, Index: entries[done].Index, Data: entries[done].Data,
				Done: done, Total: len(entries),
			}
		}
	}
	return done, nil
}

// Flags of an MSR filter range.
const (
	MSRFilterRead  = 1 << 0 // KVM_MSR_FILTER_READ
	MSRFilterWrite = 1 << 1 // KVM_MSR_FILTER_WRITE
)

// MSRFilterRange says for N MSRs from Base which accesses are allowed: bit n of
// Bitmap set allows the accesses in Flags to MSR Base+n, clear denies them.
type MSRFilterRange struct {
	Flags  uint32
	Base   uint32
	N      uint32 // at most 8*len(Bitmap)
	Bitmap []byte // at most 0x600 bytes; read during the call only
}

// msrFilterRange is struct kvm_msr_filter_range.
type msrFilterRange struct {
	Flags  uint32
	NMSRs  uint32
	Base   uint32
	_      uint32
	Bitmap uint64
}

// msrFilter is struct kvm_msr_filter.
type msrFilter struct {
	Flags  uint32
	_      uint32
	Ranges [16]msrFilterRange
}

const msrFilterDefaultDeny = 1 // KVM_MSR_FILTER_DEFAULT_DENY

// SetMSRFilter replaces the VM's MSR filter (KVM_X86_SET_MSR_FILTER): which MSR
// accesses of the guest KVM handles. A denied one is a #GP in the guest, or an
// exit when CapX86UserSpaceMSR was enabled for filtered accesses. x2APIC MSRs
// cannot be filtered.
func (vm *VM) SetMSRFilter(denyByDefault bool, ranges []MSRFilterRange) error {
	var f msrFilter
	if len(ranges) > len(f.Ranges) {
		return fmt.Errorf("%d MSR filter ranges, KVM takes %d", len(ranges), len(f.Ranges))
	}
	if denyByDefault {
		f.Flags = msrFilterDefaultDeny
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	for i, r := range ranges {
		if r.N == 0 || uint64(r.N) > 8*uint64(len(r.Bitmap)) {
			return fmt.Errorf("MSR filter range at %#x: %d MSRs, a bitmap of %d bytes", r.Base, r.N, len(r.Bitmap))
		}
		p := unsafe.SliceData(r.Bitmap)
		pin.Pin(p)
		// SAFETY: pinned until the call has returned, and at least N bits long.
		f.Ranges[i] = msrFilterRange{Flags: r.Flags, NMSRs: r.N, Base: r.Base, Bitmap: uint64(uintptr(unsafe.Pointer(p)))}
	}
	return explain(set(&vm.fd, &reqSetMSRFilter, &f), vm, CapX86MSRFilter)
}
