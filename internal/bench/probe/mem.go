package probe

import (
	"encoding/binary"
	"math/rand/v2"

	"golang.org/x/sys/unix"
)

func memProbes() []Probe {
	return []Probe{
		{Name: "mem-read", Chapter: "mem", Follows: "lmbench bw_mem rd", MiB: 1, open: openRead},
		{Name: "mem-copy", Chapter: "mem", Follows: "lmbench bw_mem bcopy", MiB: 1, open: openCopy},
		{Name: "chase-4k", Chapter: "mem", Follows: "lmbench lat_mem_rd", open: func(string) (*bench, error) { return openChase(unix.MADV_NOHUGEPAGE) }},
		{Name: "chase-huge", Chapter: "mem", Follows: "lmbench lat_mem_rd", open: func(string) (*bench, error) { return openChase(unix.MADV_HUGEPAGE) }},
	}
}

// blockSize is more than a processor's own caches have.
const blockSize = 16 << 20

// sum keeps loops from being optimized away.
var sum uint64

func openRead(string) (*bench, error) {
	mem, err := anonymous(blockSize, unix.MADV_NOHUGEPAGE)
	if err != nil {
		return nil, err
	}
	touch(mem)
	return timed(func(n int) error {
		for i := range n {
			at := i % (blockSize >> 20) << 20
			var s uint64
			for b := mem[at : at+1<<20]; len(b) >= 32; b = b[32:] {
				s += binary.LittleEndian.Uint64(b) + binary.LittleEndian.Uint64(b[8:]) + binary.LittleEndian.Uint64(b[16:]) + binary.LittleEndian.Uint64(b[24:])
			}
			sum += s
		}
		return nil
	}, func() { _ = unix.Munmap(mem) }), nil
}

func openCopy(string) (*bench, error) {
	mem, err := anonymous(2*blockSize, unix.MADV_NOHUGEPAGE)
	if err != nil {
		return nil, err
	}
	touch(mem)
	return timed(func(n int) error {
		for i := range n {
			at := i % (blockSize >> 20) << 20
			copy(mem[blockSize+at:blockSize+at+1<<20], mem[at:at+1<<20])
		}
		return nil
	}, func() { _ = unix.Munmap(mem) }), nil
}

// chaseSize is the memory that chase walks through, in steps of a cache line.
const (
	chaseSize = 32 << 20
	line      = 64
)

// openChase walks one cycle through all lines in random order, the same order
// everywhere.
func openChase(advice int) (*bench, error) {
	mem, err := anonymous(chaseSize+2<<20, advice)
	if err != nil {
		return nil, err
	}
	order := rand.New(rand.NewPCG(1, 2)).Perm(chaseSize / line)
	for i, at := range order {
		next := order[(i+1)%len(order)]
		binary.LittleEndian.PutUint32(mem[at*line:], uint32(next*line))
	}
	at := uint32(0)
	return timed(func(n int) error {
		for range n {
			at = binary.LittleEndian.Uint32(mem[at:])
		}
		return nil
	}, func() { _ = unix.Munmap(mem) }), nil
}
