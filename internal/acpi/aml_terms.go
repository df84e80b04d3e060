package acpi

// Named objects (ACPI 6.5, 20.2.5).

func scope(path string, body ...node) node {
	return framed([]byte{opScope}, name(path), group(body...))
}

func device(seg string, body ...node) node {
	return framed([]byte{extPrefix, extDevice}, name(seg), group(body...))
}

func defName(seg string, value node) node { return group(raw(opName), name(seg), value) }

// method declares a method of nargs arguments. serialized keeps a second
// thread out until the first has left.
func method(seg string, nargs int, serialized bool, body ...node) node {
	if nargs < 0 || nargs > 7 {
		return func(w *amlWriter) { w.fail("AML method %s of %d arguments", seg, nargs) }
	}
	flags := byte(nargs)
	if serialized {
		flags |= 1 << 3
	}
	return framed([]byte{opMethod}, name(seg), raw(flags), group(body...))
}

// opRegion declares registers in address space regionMemory or regionIO.
func opRegion(seg string, space byte, base, size uint64) node {
	return group(raw(extPrefix, extOpRegion), name(seg), raw(space), integer(base), integer(size))
}

// field32 splits region into one 32-bit field per name, each read and written
// as one dword.
func field32(region string, names ...string) node {
	return framed([]byte{extPrefix, extField}, name(region), raw(fieldDWordAcc|fieldZeroes), func(w *amlWriter) {
		for _, n := range names {
			name(n)(w)
			w.b = append(w.b, 32) // a PkgLength that frames nothing: the width in bits
		}
	})
}

// Statements and expressions (20.2.5.3, 20.2.5.4).

func local(i int) node { return raw(byte(opLocal0 + i)) }
func arg(i int) node   { return raw(byte(opArg0 + i)) }

func store(value, into node) node   { return group(raw(opStore), value, into) }
func and(a, b, into node) node      { return group(raw(opAnd), a, b, into) }
func or(a, b, into node) node       { return group(raw(opOr), a, b, into) }
func lEqual(a, b node) node         { return group(raw(opLEqual), a, b) }
func lNot(a node) node              { return group(raw(opLNot), a) }
func notify(obj, value node) node   { return group(raw(opNotify), obj, value) }
func returns(v node) node           { return group(raw(opReturn), v) }
func ifs(c node, body ...node) node { return framed([]byte{opIf}, c, group(body...)) }
func elses(body ...node) node       { return framed([]byte{opElse}, body...) }

// nowhere is the target of an expression whose result is used in place.
var nowhere = raw(opZero)

// dwordField names the 4 bytes at off of a buffer.
func dwordField(buf node, off uint64, seg string) node {
	return group(raw(opCreateDWord), buf, integer(off), name(seg))
}
