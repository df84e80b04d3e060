package migrate_test

import (
	"flag"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if role := os.Getenv("MIGRATE_CHILD"); role != "" {
		os.Exit(child(role))
	}
	flag.Parse()
	// The tests of faults wait for time-outs more than they compute.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
