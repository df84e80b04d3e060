package ociclients

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
)

// TestPodmanCheckpoint saves a container that counts and restores it, in place
// and from a file, with pages saved ahead. It counts on without a gap.
func TestPodmanCheckpoint(t *testing.T) {
	testenv.Require(t, testenv.CRIU)
	p := newPodman(t)
	lines := func(name string) int { return strings.Count(p.ok("logs", name), "\n") + 1 }
	grows := func(name string) {
		t.Helper()
		n := lines(name)
		eventually(t, "it counts on", func() bool { return lines(name) > n })
	}
	gapless := func(name string) {
		t.Helper()
		for i, line := range strings.Fields(p.ok("logs", name)) {
			if line != strconv.Itoa(i+1) {
				t.Fatalf("line %d of %s is %q", i+1, name, line)
			}
		}
	}
	p.ok("run", "-d", "--name", "c", "--network", "none", image, "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done")
	grows("c")
	p.ok("container", "checkpoint", "c")
	p.do("inspect", "--format", "{{.State.Checkpointed}} {{.State.Running}}", "c").is(t, "true false")
	p.ok("container", "restore", "c")
	grows("c")
	gapless("c")
	p.do("exec", "c", "echo", "inside").is(t, "inside")

	dir := t.TempDir()
	ahead, rest := filepath.Join(dir, "ahead.tar"), filepath.Join(dir, "rest.tar")
	p.ok("container", "checkpoint", "--pre-checkpoint", "--export", ahead, "c")
	p.do("inspect", "--format", "{{.State.Running}}", "c").is(t, "true")
	p.ok("container", "checkpoint", "--with-previous", "--export", rest, "c")
	last := lines("c")
	p.ok("rm", "c")
	p.ok("container", "restore", "--import-previous", ahead, "--import", rest)
	eventually(t, "it counts on", func() bool { return lines("c") > last }) // the log comes along
	gapless("c")
	p.ok("rm", "-f", "-t", "0", "c")
}
