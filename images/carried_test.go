package images

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

func carried(t *testing.T, s *Store, b []byte) (path string, held *os.File) {
	t.Helper()
	sum := sha256.Sum256(b)
	in, name, _, err := s.Receive(t.Context(), int64(len(b)), hex.EncodeToString(sum[:]))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Discard()
	if _, err := in.Write(b); err != nil {
		t.Fatal(err)
	}
	if held, err = in.Keep(); err != nil {
		t.Fatal(err)
	}
	return s.path("derived", name), held
}

// What a migration has brought is called by its own digest, so that it never stands for
// an image that somebody runs by name, and goes when nobody holds it any more.
func TestACarriedImageLivesAsLongAsItIsHeld(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path, held := carried(t, s, []byte("an image"))
	if b, err := os.ReadFile(path); err != nil || string(b) != "an image" {
		t.Fatalf("%q, %v", b, err)
	}
	if strings.HasSuffix(path, derivedSuffix) {
		t.Errorf("%s is what an image of that manifest would be called", path)
	}
	sum := sha256.Sum256([]byte("an image"))
	in, name, again, err := s.Receive(t.Context(), 8, hex.EncodeToString(sum[:]))
	if err != nil || in != nil || again == nil || !strings.HasSuffix(path, name) {
		t.Fatalf("a second time: %v, %q, %v", in, name, err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("pruned while it was held: %v", err)
	}
	_ = again.Close()
	if _, err := s.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("left for ever: %v", err)
	}
}

func TestACarriedImageThatDoesNotComeLeavesNothing(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := s.Receive(t.Context(), 1, "../../etc"); err == nil {
		t.Error("a path is taken for a digest")
	}
	in, _, _, err := s.Receive(t.Context(), 8, strings.Repeat("0", 64))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	in.Discard()
	in.Discard()
	for _, dir := range []string{"tmp", "derived"} {
		if es, err := os.ReadDir(s.path(dir)); err != nil || len(es) > 0 {
			t.Errorf("%s: %v, %v", dir, es, err)
		}
	}
}
