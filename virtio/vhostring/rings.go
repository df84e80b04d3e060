// Package vhostring hands a driver's rings to the kernel's vhost devices: it says in
// their words, and this process's addresses, where rings and guest memory are, and
// takes the rings back.
package vhostring

import (
	"slices"

	"github.com/hvctl/hvctl/internal/vhost"
	"github.com/hvctl/hvctl/virtio"
)

// Kernel is what of a vhost device is the same for all kinds; those of package
// vhost have it.
type Kernel interface {
	Features() uint64
	SetFeatures(f uint64) error
	SetMemTable(regions []vhost.MemoryRegion) error
	SetVring(v vhost.Vring) error
	VringBase(index int) (uint16, error)
	Close() error
}

// Prepare tells k what was negotiated, as far as it concerns it, and where memory
// is.
func Prepare(k Kernel, env *virtio.Env) error {
	if err := k.SetFeatures(uint64(env.Features) & k.Features()); err != nil {
		return err
	}
	var regions []vhost.MemoryRegion
	for _, r := range slices.Concat(env.Mem.Regions(), env.Mem.Lent()) {
		regions = append(regions, vhost.MemoryRegion{GuestPhysAddr: uint64(r.GPA), MemorySize: r.Size, UserspaceAddr: uint64(r.HVA())})
	}
	return k.SetMemTable(regions)
}

// Vring describes q, which the core has validated, as k's ring index. Call and
// Err are the caller's to fill in.
func Vring(env *virtio.Env, q *virtio.Queue, index int) (vhost.Vring, error) {
	s := q.Rings()
	v := vhost.Vring{Index: index, Num: s.Size, Base: s.NextAvail, Kick: q.KickFD().FD()}
	for _, p := range []struct {
		to *uint64
		of virtio.RingPart
	}{{&v.Desc, virtio.PartDesc}, {&v.Avail, virtio.PartAvail}, {&v.Used, virtio.PartUsed}} {
		at, n := s.Part(p.of)
		hva, err := env.Mem.HVA(at, n)
		if err != nil {
			return v, virtio.GuestErrorf("queue %d, %v: %w", q.Index(), p.of, err)
		}
		*p.to = uint64(hva)
	}
	return v, nil
}

// TakeBack notes how far k's ring index, which is stopped, has come with q. The
// kernel serves each chain to the end before it takes the next, so both indices
// of a ring are the same then.
func TakeBack(k Kernel, q *virtio.Queue, index int) error {
	n, err := k.VringBase(index)
	if err == nil {
		q.SetNext(n, n)
	}
	return err
}
