package ociconf

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// retries is how often a program that does not pass is run again, with no other
// beside it; the racy ones get more.
const (
	retries     = 2
	racyRetries = 6
)

// racy are programs whose verdict depends on who is faster: the busier the
// machine and the quicker the runtime, the more often they are lost.
var racy = map[string]string{
	"killsig":   "it may send the signal before the shell has set its trap",
	"pidfile":   "it kills a program, true, that has mostly ended by then, and takes the error for a failure",
	"poststart": "it wants the process to have written its file before the hook that runs after the process's start",
	"poststop":  "crun dies of SIGPIPE now and then when a hook does not read its standard input",
}

// programLimit is how long one program may take. Most need less than a second;
// some wait 10 s for a container that does not stop.
const programLimit = 90 * time.Second

// Suite is a folder made by scripts/conformance-tools.
type Suite struct {
	dir      string
	programs []string
}

// Open looks at the folder: bin/ with the programs, rootfs-ARCH.tar.gz and
// runtimetest beside it.
func Open(dir string) (*Suite, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "bin"))
	if err != nil {
		return nil, err
	}
	s := &Suite{dir: dir}
	for _, e := range entries {
		s.programs = append(s.programs, e.Name())
	}
	if len(s.programs) == 0 {
		return nil, fmt.Errorf("%s/bin: no programs; run scripts/conformance-tools", dir)
	}
	return s, nil
}

// Programs returns the names of all programs, sorted.
func (s *Suite) Programs() []string { return slices.Clone(s.programs) }

// sharesGroups says whether a program uses cgroups of a fixed name, so that
// two of them cannot run at a time.
func sharesGroups(program string) bool {
	return strings.HasPrefix(program, "linux_cgroups_") || strings.HasPrefix(program, "delete")
}

// Run judges a runtime by the named programs, some at a time. The caller is
// root. Nobody else may run the suite on this machine meanwhile.
func (s *Suite) Run(ctx context.Context, runtime string, view View, programs []string) (map[string]Outcome, error) {
	runtime, err := filepath.Abs(runtime)
	if err != nil {
		return nil, err
	}
	before := groups()
	defer sweep(before)

	var mu sync.Mutex
	all := make(map[string]Outcome, len(programs))
	judge := func(program string) {
		o := s.one(ctx, runtime, view, program)
		mu.Lock()
		defer mu.Unlock()
		all[program] = o
	}
	var alone, free []string
	for _, p := range programs {
		if sharesGroups(p) {
			alone = append(alone, p)
		} else {
			free = append(free, p)
		}
	}
	const lanes = 3
	queue := make(chan string)
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, p := range alone {
			judge(p)
		}
	})
	for range lanes {
		wg.Go(func() {
			for p := range queue {
				judge(p)
			}
		})
	}
	for _, p := range free {
		queue <- p
	}
	close(queue)
	wg.Wait()
	for _, p := range programs {
		limit := retries
		if racy[p] != "" {
			limit = racyRetries
		}
		for try := 1; !all[p].Passed && try <= limit && ctx.Err() == nil; try++ {
			judge(p)
		}
	}
	return all, ctx.Err()
}

func (s *Suite) one(ctx context.Context, runtime string, view View, program string) Outcome {
	output, rc, err := run(ctx, s.dir, filepath.Join(s.dir, "bin", program), runtime, view, programLimit)
	o := Judge(output, rc)
	if err != nil {
		o.Passed = false
		o.Failed = append(o.Failed, err.Error())
	}
	return o
}
