package coredump

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/sparse"
)

// Guest is what is written down. It stands still meanwhile.
type Guest struct {
	CPUs    []CPU
	Regions []memory.Region
	FD      int       // the file behind the regions, or -1
	Maps    []Mapping // of its kernel, in any order; MaxMaps at most
}

// Mapping is a stretch of virtual addresses that leads to one of memory.
type Mapping struct {
	Virtual uint64
	GPA     memory.GPA
	Size    uint64 // bytes; all of it is in one region
}

// MaxMaps bounds the mappings: an ELF file has 16 bits for the number of its
// segments.
const MaxMaps = 60000

// Report says what was written.
type Report struct {
	SizeBytes   uint64 `json:"sizeBytes"`   // of the file, holes included
	StoredBytes uint64 `json:"storedBytes"` // of memory, without holes
	CPUs        int    `json:"cpus"`
	Mappings    int    `json:"mappings"`
	// VMCoreInfo says that the guest's kernel has described itself.
	VMCoreInfo bool `json:"vmcoreinfo"`
}

const (
	headerSize  = 64
	segmentSize = 56
	ptLoad      = 1
	ptNote      = 4
	readWrite   = 6
)

// Write writes g to f, an empty regular file. On error what is in f is of no
// use.
func Write(ctx context.Context, f *os.File, g Guest) (Report, error) {
	if len(g.Maps) > MaxMaps {
		return Report{}, fmt.Errorf("core file: %d mappings; there is room for %d", len(g.Maps), MaxMaps)
	}
	r := Report{CPUs: len(g.CPUs), Mappings: len(g.Maps)}
	var notes []byte
	for i := range g.CPUs {
		notes = g.CPUs[i].notes(notes, i)
	}
	segments := 1 + len(g.Regions) + len(g.Maps)
	noteAt := uint64(headerSize + segments*segmentSize)
	room := uint64(len(notes) + coreInfoHead + maxCoreInfo + 4)
	dataAt := (noteAt + room + memory.PageSize - 1) &^ (memory.PageSize - 1)
	r.SizeBytes = dataAt
	for _, reg := range g.Regions {
		r.SizeBytes += reg.Size
	}
	if err := f.Truncate(int64(r.SizeBytes)); err != nil {
		return r, err
	}
	info, err := writeRAM(ctx, f, &g, dataAt, &r)
	if err != nil {
		return r, err
	}
	if info != nil {
		notes, r.VMCoreInfo = note(notes, coreInfo, ntCoreInfo, info), true
	}
	head := header(segments)
	head = segment(head, ptNote, noteAt, 0, 0, uint64(len(notes)), 0)
	for _, reg := range g.Regions {
		head = segment(head, ptLoad, dataAt+reg.Offset, uint64(reg.GPA), uint64(reg.GPA), reg.Size, readWrite)
	}
	for _, m := range g.Maps {
		at, err := g.offset(m)
		if err != nil {
			return r, err
		}
		head = segment(head, ptLoad, dataAt+at, m.Virtual, uint64(m.GPA), m.Size, readWrite)
	}
	_, err = f.WriteAt(append(head, notes...), 0)
	return r, err
}

// offset is where a mapping is behind the first byte of memory.
func (g *Guest) offset(m Mapping) (uint64, error) {
	for _, r := range g.Regions {
		if m.GPA >= r.GPA && uint64(m.GPA-r.GPA) < r.Size && m.Size <= r.Size-uint64(m.GPA-r.GPA) {
			return r.Offset + uint64(m.GPA-r.GPA), nil
		}
	}
	return 0, fmt.Errorf("core file: mapping of %#x bytes at %v is outside memory", m.Size, m.GPA)
}

// header is the ELF header.
func header(segments int) []byte {
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	return append(b, words(uint16(4), uint16(62), uint32(1), // core, x86-64
		uint64(0), uint64(headerSize), uint64(0), uint32(0),
		uint16(headerSize), uint16(segmentSize), uint16(segments), uint16(0), uint16(0), uint16(0))...)
}

func segment(b []byte, typ uint32, at, virtual, physical, size uint64, flags uint32) []byte {
	b = binary.LittleEndian.AppendUint32(b, typ)
	b = binary.LittleEndian.AppendUint32(b, flags)
	for _, v := range []uint64{at, virtual, physical, size, size, 0} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// step is how much is written between two looks at the context, in pages.
const step = 1024

// writeRAM writes what is no zero and returns the guest's VMCOREINFO, if it is
// there.
func writeRAM(ctx context.Context, f *os.File, g *Guest, at uint64, r *Report) (info []byte, err error) {
	for _, reg := range g.Regions {
		pages := reg.Size / memory.PageSize
		present := sparse.Fill(pages)
		if g.FD >= 0 {
			if present, err = sparse.Data(g.FD, reg.Offset, reg.Size); err != nil {
				return nil, err
			}
		}
		for p := uint64(0); p < pages; {
			if p%step == 0 && ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if present[p/64] == 0 {
				p = min(p&^63+64, pages)
				continue
			}
			if present[p/64]>>(p%64)&1 == 0 || sparse.IsZero(page(reg, p)) {
				p++
				continue
			}
			from := p
			for ; p < pages && p-from < step && present[p/64]>>(p%64)&1 != 0 && !sparse.IsZero(page(reg, p)); p++ {
				if info == nil {
					begin := p * memory.PageSize
					info = coreInfoOf(reg.Bytes[begin:min(begin+coreInfoSpan, reg.Size)])
				}
			}
			if _, err := f.WriteAt(reg.Bytes[from*memory.PageSize:p*memory.PageSize], int64(at+reg.Offset+from*memory.PageSize)); err != nil {
				return nil, err
			}
			r.StoredBytes += (p - from) * memory.PageSize
		}
	}
	return info, nil
}

// coreInfoSpan is where a VMCOREINFO note ends at the latest, from its begin.
const coreInfoSpan = uint64(coreInfoHead + maxCoreInfo)

func page(r memory.Region, p uint64) []byte {
	return r.Bytes[p*memory.PageSize : (p+1)*memory.PageSize]
}
