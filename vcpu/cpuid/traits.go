package cpuid

// Traits is what two processors are compared by, in a form that can be sent.
type Traits struct {
	Vendor string
	// Words are the registers that are sets of features, by names like "7.0.ebx":
	// leaf, subleaf, register.
	Words    map[string]uint32
	PhysBits uint32 // of physical addresses
	XSave    uint32 // bytes of the XSAVE area with everything in it
}

// TraitsOf reads the traits that Compatible compares.
func TraitsOf(entries []Entry) Traits {
	t := Traits{Vendor: vendorOf(entries), Words: map[string]uint32{}}
	for _, f := range features {
		e, _ := Find(entries, f.leaf, f.subleaf)
		if v := *e.reg(f.reg) &^ f.follows; v != 0 {
			t.Words[word{f.leaf, f.subleaf, f.reg}.String()] = v
		}
	}
	a, _ := Find(entries, 0x8000_0008, 0)
	x, _ := Find(entries, 0xd, 0)
	t.PhysBits, t.XSave = a.EAX&0xff, x.ECX
	return t
}
