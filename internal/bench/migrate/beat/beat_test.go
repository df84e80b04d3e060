package beat

import "testing"

func TestParseReadsWhatPutWrote(t *testing.T) {
	page := make([]byte, Size)
	if _, ok := Parse(page); ok {
		t.Error("an empty page is taken for one")
	}
	want := Beat{Count: 1, Gap: 2, Written: 3, Ready: 4}
	want.Put(page)
	if got, ok := Parse(page[:Head]); !ok || got != want {
		t.Errorf("%+v, %v", got, ok)
	}
	if _, ok := Parse(page[:Head-1]); ok {
		t.Error("a short page is taken for one")
	}
}
