// Command testreport reads the output of `go test -json` and says, in the end,
// what ran, what failed and what was skipped, tier by tier.
//
//	testreport needs
//	    lists the tests under the current directory that need KVM, root or guests:
//	    one line per package, "DIR<tab>NEED,NEED<tab>TestA|TestB"
//	testreport collect -state DIR -tier NAME [-part NAME] [-expect PKG,PKG] <json
//	    shows progress and failures, and keeps the results in DIR. Tier
//	    "machine" is split into "unit" and "kvm" by what each test needs. A tier
//	    may come in parts; one that is collected again replaces its results.
//	testreport failed -state DIR -tier NAME -part NAME
//	    lists the tests of that part that failed, as "PKG<tab>TestA|TestB", if they
//	    are few enough to be run again; those results are collected with -again.
//	testreport summary -state DIR [-tiers TIER,TIER] [-must NEED,NEED]
//	    prints the table; exit status 1 on any failure, on a skip for want of
//	    a need in -must, and when there is no result at all.
//
// It is used by scripts/test and is no part of hvctl.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("a sub-command is needed: needs, collect, failed or summary")
	}
	fs := flag.NewFlagSet(args[0], flag.ContinueOnError)
	state := fs.String("state", "", "directory that keeps the results")
	tier := fs.String("tier", "", "name of the tier")
	part := fs.String("part", "", "which part of the tier this is")
	again := fs.Bool("again", false, "what is collected is another run of tests that failed")
	expect := fs.String("expect", "", "packages that must report, separated by commas")
	asked := fs.String("tiers", "unit,kvm,fuzz,guest", "tiers that were to run, for summary")
	must := fs.String("must", "", "needs that are there, so that no test may be skipped for them")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "needs":
		return printNeeds(os.Stdout, ".")
	case "collect":
		c := &collector{tier: *tier, out: os.Stdout}
		if *tier == machineTier {
			needs, err := findNeeds(".")
			if err != nil {
				return err
			}
			c.needs = needs
		}
		if err := c.read(os.Stdin); err != nil {
			return err
		}
		c.finish(splitList(*expect))
		for i := range c.results {
			c.results[i].Again = *again
		}
		return save(*state, *tier+*part, c.results)
	case "failed":
		rs, err := load(*state, *tier+*part)
		if err != nil {
			return err
		}
		printFailed(os.Stdout, rs)
		return nil
	case "summary":
		all, err := loadAll(*state)
		if err != nil {
			return err
		}
		if !summarize(os.Stdout, all, splitList(*asked), splitList(*must)) {
			os.Exit(1)
		}
		return nil
	}
	return fmt.Errorf("unknown sub-command %q", args[0])
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
}
