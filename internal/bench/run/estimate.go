package run

import (
	"context"
	"slices"
	"time"

	"github.com/hvctl/hvctl/internal/bench/probe"
	"github.com/hvctl/hvctl/internal/bench/result"
)

// warmUp runs two short lives on every target and returns how long the second
// took: the first of a kind loads modules and makes caches. Whether they work is
// seen, and told, where it counts.
func warmUp(ctx context.Context, o Options) map[string]time.Duration {
	took := map[string]time.Duration{}
	for _, w := range o.Worlds {
		for range 2 {
			begin := time.Now()
			if s, err := open(ctx, w, Job{Argv: []string{Program, "exit", "0"}}); err == nil {
				_, _ = s.rest()
				_ = s.close()
			}
			took[w.Name()] = time.Since(begin)
		}
	}
	return took
}

// estimate is about how long a run takes, from how long an instance lives that
// does nothing.
func estimate(o Options, r *result.Result, lives map[string]time.Duration) (total time.Duration) {
	has := func(chapter string) bool { return slices.Contains(r.Plan.Chapters, chapter) }
	n := len(probe.Select(r.Plan.Chapters))
	// Preparing a probe and reading counters costs about as much as a batch.
	probes := time.Duration(n*(r.Plan.Batches+1)) * max(o.BatchTime, time.Millisecond)
	for i, w := range o.Worlds {
		life, twice := lives[w.Name()], time.Duration(1)
		if i == 0 {
			twice = 2 // the base and its copy
		}
		if has("equiv") {
			total += time.Duration(len(looks(o.Brief))+1) * life
		}
		if n > 0 {
			total += twice * time.Duration(r.Plan.Blocks+1) * (life + probes)
		}
		if has("life") {
			total += twice * time.Duration(o.Starts+1) * 2 * life
		}
		if has("density") {
			total += time.Duration(o.Crowd) * (life + settle)
		}
		if has("iso") {
			all := time.Duration(len(promises(o)))
			total += time.Duration(o.ControlBlocks) * (all*o.ControlTime + 2*all*life)
		}
		if has("mig") {
			total += time.Duration(o.Moves+1) * 6 * (life + time.Second)
		}
	}
	return total
}
