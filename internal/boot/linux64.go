package boot

import "encoding/binary"

// Offsets in struct boot_params outside the setup header
// (Documentation/arch/x86/zero-page.rst).
const (
	offRSDP        = 0x070
	offE820Entries = 0x1e8
	offE820Table   = 0x2d0
	zeroPageSize   = 4096

	loaderUndefined = 0xff // boot.rst: a loader without an assigned id
	loadedHigh      = 1    // protected-mode code at 1 MiB or above

	setupRNGSeed    = 9 // SETUP_RNG_SEED, Linux 6.0 and later; others skip it
	setupDataHeader = 16

	setupVersion = 0x20f // of the header made up for a vmlinux
	kernelAlign  = 2 << 20
)

// MaxRNGSeed is the longest Params.RNGSeed in bytes.
const MaxRNGSeed = 1024

// enterLinux64 writes boot_params, page tables and the seed.
func (k *Kernel) enterLinux64(m Memory, in bootInfo) (Entry, error) {
	le := binary.LittleEndian
	zp := make([]byte, zeroPageSize)
	if k.setup != nil {
		copy(zp[offSetupSects:offSetupMax], k.setup)
	} else {
		le.PutUint16(zp[offBootFlag:], 0xaa55)
		copy(zp[offHdrS:], "HdrS")
		le.PutUint16(zp[offProtocol:], setupVersion)
		le.PutUint32(zp[offKernelAlign:], kernelAlign)
		le.PutUint32(zp[offInitrdAddrMax:], defaultInitrdMax)
		le.PutUint32(zp[offCmdlineSize:], defaultCmdlineMax)
	}
	zp[offTypeOfLoader] = loaderUndefined
	zp[offLoadFlags] |= loadedHigh
	le.PutUint32(zp[offRamdiskImage:], uint32(in.initrd.GPA)) // below 4 GiB by placement
	le.PutUint32(zp[offRamdiskSize:], uint32(in.initrd.Size))
	le.PutUint32(zp[offCmdLinePtr:], uint32(cmdlineAddr))
	le.PutUint64(zp[offRSDP:], uint64(in.rsdp))
	le.PutUint64(zp[offSetupData:], 0)
	if len(in.seed) > 0 {
		sd := make([]byte, setupDataHeader, setupDataHeader+len(in.seed))
		le.PutUint32(sd[8:], setupRNGSeed)
		le.PutUint32(sd[12:], uint32(len(in.seed)))
		if err := m.WriteAt(append(sd, in.seed...), setupDataAddr); err != nil {
			return Entry{}, err
		}
		le.PutUint64(zp[offSetupData:], uint64(setupDataAddr))
	}
	zp[offE820Entries] = uint8(len(in.memMap))
	copy(zp[offE820Table:], e820(in.memMap))
	if err := m.WriteAt(zp, zeroPageAddr); err != nil {
		return Entry{}, err
	}
	cr3, err := writeIdentityMap(m)
	if err != nil {
		return Entry{}, err
	}
	// boot.rst, "64-bit Boot Protocol": paging on with an identity map, flat
	// segments __BOOT_CS and __BOOT_DS, interrupts off, RSI = boot_params.
	e := Entry{
		Protocol: Linux64, RIP: uint64(k.Entry64), RSI: uint64(zeroPageAddr), RSP: uint64(stackTop),
		RFLAGS: rflagsFixed, CR0: cr0PE | cr0ET | cr0PG, CR3: cr3, CR4: cr4PAE, EFER: eferLME | eferLMA,
	}
	e.CS, e.Data, e.TR = flatSegments(true)
	return e, e.writeGDT(m)
}
