package workloadtest

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/hvctl/hvctl/internal/supervisor"
	"github.com/hvctl/hvctl/internal/workload"
)

// TestMain also plays the fake's owner processes.
func TestMain(m *testing.M) {
	if os.Getenv("WORKLOADTEST_OWNER") != "" {
		if err := supervisor.Run(context.Background(), os.Args[1], NewRuntime); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type fakeBackend struct{}

func (fakeBackend) Name() string                                    { return "fake" }
func (fakeBackend) Prepare(context.Context, *workload.Config) error { return nil }
func (fakeBackend) Command() ([]string, error) {
	return []string{"/usr/bin/env", "WORKLOADTEST_OWNER=1", "GORACE=atexit_sleep_ms=0", os.Args[0]}, nil
}

func TestFake(t *testing.T) {
	Suite(t, Target{Backend: fakeBackend{}, Config: func(*testing.T) *workload.Config { return &workload.Config{} }})
}
