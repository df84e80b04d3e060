package container_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What an image has where a tmpfs is to begin with it counts against the container's
// memory, although the runtime copies it; holes stay holes.
func TestCopyUpKeepsToTheMemoryLimit(t *testing.T) {
	h := newHost(t)
	dir := filepath.Join(h.bundle, "rootfs", "data")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	sparse := filepath.Join(dir, "sub", "sparse")
	if err := os.WriteFile(sparse, []byte("begin"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(sparse, 1<<40); err != nil {
		t.Fatal(err)
	}
	limit := int64(32 << 20)
	s := h.spec("head -c 5 /data/sub/sparse; stat -c ' %s %b' /data/sub/sparse")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
	s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	if out, code := h.output(s); out != "begin 1099511627776 8" || code != 0 {
		t.Errorf("%q, %d", out, code)
	}
	if err := h.Delete(t.Context(), h.id(), true); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, limit+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := h.create(s); err == nil || !strings.Contains(err.Error(), "linux.resources.memory.limit") || !strings.Contains(err.Error(), "/data") && !strings.Contains(err.Error(), "tmpcopyup") {
		t.Errorf("more than the limit: %v", err)
	}
}
