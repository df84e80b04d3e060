package control

import (
	"errors"
	"io"
	"os"
	"testing"
)

// pipe has text in it.
func pipe(t *testing.T, text string) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return r
}

func TestFilesComeWithARequest(t *testing.T) {
	o := &fakeOwner{}
	c := serveFake(t, o)
	if _, err := c.Upgrade(t.Context(), UpgradeRequest{Program: "/p", PID: 7, Link: pipe(t, "first"), Process: pipe(t, "second")}); err != nil {
		t.Fatal(err)
	}
	if _, _, brought := o.told(); brought != "second" {
		t.Errorf("the second file is %q", brought)
	}
}

func TestFilesThatAreMissingOrTooManyAreRefused(t *testing.T) {
	o := &fakeOwner{}
	c := serveFake(t, o)
	f := pipe(t, "x")
	for n := range maxFiles + 3 {
		files := make([]*os.File, n)
		for i := range files {
			files[i] = f
		}
		err := c.do(t.Context(), "POST", "/v1/upgrade", UpgradeRequest{Program: "/p"}, nil, files...)
		if want := n != 2; want != errors.Is(err, ErrBadRequest) {
			t.Errorf("%d files: %v", n, err)
		}
	}
	if err := c.do(t.Context(), "POST", "/v1/pause", nil, nil, f, f); err != nil {
		t.Errorf("files that nobody wants: %v", err)
	}
}
