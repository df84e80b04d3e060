package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// killedWithin starts a command and kills it with SIGKILL after a time, which
// it may not take. It reports whether the kill came first.
func (c *cli) killedWithin(after time.Duration, args ...string) bool {
	c.t.Helper()
	cmd := c.command(args...)
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	t := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer t.Stop()
	err := cmd.Wait()
	var ee *exec.ExitError
	return errors.As(err, &ee) && !ee.Exited()
}

// TestKilledRuntimeLeavesWhatDeleteRemoves kills the runtime at moments spread
// over the whole of create, start and delete. There is no moment after which
// delete --force does not remove all of it.
func TestKilledRuntimeLeavesWhatDeleteRemoves(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	rounds := 6
	if os.Getenv(crowdEnv) != "" {
		rounds = 40
	}
	c := newCLI(t)
	c.config(func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true"}}, Poststart: []specs.Hook{{Path: "/bin/true"}}, Poststop: []specs.Hook{{Path: "/bin/true"}}}
	})
	id := c.prefix
	killed := map[string]int{}
	for _, verb := range []string{"create", "start", "delete"} {
		// How long it takes undisturbed is how far the moments are spread.
		took := time.Duration(0)
		for i := range rounds {
			if verb != "create" {
				if err := c.detached("create", id); err != nil {
					t.Fatal(err)
				}
			}
			if verb == "delete" {
				c.must("start", id)
				c.must("kill", id, "KILL")
			}
			args := []string{verb, id}
			if verb == "delete" {
				args = []string{verb, "--force", id}
			}
			after := time.Minute
			if i > 0 {
				after = time.Duration(r.Int64N(int64(took)))
			}
			begin := time.Now()
			if c.killedWithin(after, args...) {
				killed[verb]++
			}
			if i == 0 {
				took = time.Since(begin)
			}
			if out, errOut, code := c.run("delete", "--force", id); code != 0 {
				t.Fatalf("%s killed after %v: delete --force: %s %s", verb, after, out, errOut)
			}
			c.nothingLeft()
			if t.Failed() {
				t.Fatalf("that was %s, killed after %v of %v", verb, after, took)
			}
		}
	}
	t.Logf("killed in time: %v of %d each", killed, rounds)
	if len(killed) == 0 { // on a busy machine some verbs may be
		t.Error("nothing was killed in time")
	}
}

// crowdEnv is how many containers TestCrowd makes, where it is not the usual
// number; then the other test takes its time, too.
const crowdEnv = "HVCTL_OCI_CROWD"

// TestCrowd makes, starts and deletes many containers, 8 at a time.
func TestCrowd(t *testing.T) {
	total := 24
	if n, err := strconv.Atoi(os.Getenv(crowdEnv)); err == nil {
		total = n
	}
	c := newCLI(t)
	c.config(func(s *specs.Spec) {
		s.Process.Args = []string{"true"}
		s.Linux.CgroupsPath = "" // the runtime's own place for each
	})
	before := hostMounts(t)
	ids := make(chan string)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for range 8 {
		wg.Go(func() {
			for id := range ids {
				if err := c.whole(id); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	for i := range total {
		ids <- fmt.Sprintf("%s-%d", c.prefix, i)
	}
	close(ids)
	wg.Wait()
	for _, err := range errs {
		t.Error(err)
	}
	c.nothingLeft()
	if after := hostMounts(t); after != before {
		t.Errorf("%d mounts before, %d after", before, after)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/hvctl-oci/", "/sys/fs/cgroup/pids/hvctl-oci/"} {
		entries, _ := os.ReadDir(pattern)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), c.prefix) {
				t.Errorf("left the cgroup %s", e.Name())
			}
		}
	}
}

// whole is one container's life.
func (c *cli) whole(id string) error {
	for _, args := range [][]string{{"create", id}, {"start", id}, {"delete", "--force", id}} {
		if err := c.detached(args...); err != nil {
			return err
		}
	}
	return nil
}

func hostMounts(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "\n")
}
