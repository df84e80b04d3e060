package memory_test

import (
	"bytes"
	"testing"

	"github.com/hvctl/hvctl/memory"
)

func vecOf(parts ...string) memory.Vec {
	var v memory.Vec
	for _, p := range parts {
		v.Append([]byte(p))
	}
	return v
}

func content(v memory.Vec) string {
	b := make([]byte, v.Len()+1)
	return string(b[:v.CopyOut(b)])
}

func TestVecViews(t *testing.T) {
	const all = "headerbodys"
	v := vecOf("hea", "der", "", "body", "s")
	for n := -1; n <= len(all)+1; n++ {
		k := min(max(n, 0), len(all))
		first, rest := v.Split(n)
		for _, c := range []struct {
			name string
			v    memory.Vec
			want string
		}{
			{"Drop", v.Drop(n), all[k:]},
			{"DropLast", v.DropLast(n), all[:len(all)-k]},
			{"Last", v.Last(n), all[len(all)-k:]},
			{"first", first, all[:k]},
			{"rest", rest, all[k:]},
			{"both ends", v.Drop(2).DropLast(n).Drop(1), all[min(3, max(2, len(all)-k)):max(len(all)-k, min(3, max(2, len(all)-k)))]},
		} {
			if got := content(c.v); got != c.want || c.v.Len() != len(c.want) {
				t.Errorf("%s(%d) = %q (%d bytes), want %q", c.name, n, got, c.v.Len(), c.want)
			}
			if got := string(bytes.Join(c.v.Buffers(), nil)); got != c.want {
				t.Errorf("%s(%d).Buffers() holds %q, want %q", c.name, n, got, c.want)
			}
		}
	}
	if content(v) != all {
		t.Errorf("views changed the receiver: %q", content(v))
	}
}

func TestVecCopyInStopsAtTheEnd(t *testing.T) {
	v := vecOf("....", "..")
	if n := v.Drop(1).DropLast(1).CopyIn([]byte("abcdef")); n != 4 {
		t.Errorf("copied %d bytes, want 4", n)
	}
	if got := content(v); got != ".abcd." {
		t.Errorf("content %q", got)
	}
	v.DropLast(2).Zero()
	if got := content(v); got != "\x00\x00\x00\x00d." {
		t.Errorf("after Zero %q", got)
	}
}

func TestMarkVecDirtyMarksTheFirstBytes(t *testing.T) {
	g := newGuest(t, memory.Options{Size: 1 << 20})
	var v memory.Vec
	for _, a := range []memory.GPA{0x5000, 0x2ff0, 0x9000} {
		b, err := g.Slice(a, 32)
		if err != nil {
			t.Fatal(err)
		}
		v.Append(b)
	}
	g.MarkVecDirty(v, 33) // all of the first, one byte of the second
	if d := g.Dirty(); d.Count() != 2 || !d.Has(5) || !d.Has(2) {
		t.Errorf("dirty pages: %d", d.Count())
	}
	g.MarkVecDirty(v.Drop(16), 1<<20)
	if d := g.Dirty(); d.Count() != 4 || !d.Has(3) || !d.Has(9) {
		t.Errorf("dirty pages: %d", d.Count())
	}
}

func TestVecViewsDoNotAllocate(t *testing.T) {
	v := vecOf("header", "body", "s")
	var hdr [6]byte
	if n := testing.AllocsPerRun(100, func() {
		v.CopyOut(hdr[:])
		_ = v.Drop(6).DropLast(1).Buffers()
		v.Last(1).CopyIn(hdr[:1])
	}); n != 0 {
		t.Errorf("%v allocations per request", n)
	}
}
