package main

import (
	"os"
	"strings"
	"testing"
)

// What cannot be printed is no success, of whatever command.
func TestLostOutputIsAFailure(t *testing.T) {
	w := newWorld(t)
	w.must("create", "--name", "web", "host", "true")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"--help"}, {"version"}, {"ps", "-aq"}, {"images", "-q"}, {"create", "host", "true"}, {"run", "host", "echo", "x"}, {"inspect", "web"}} {
		c := w.hv(args...)
		c.cmd.Stdout = full
		if code := c.run(); code != 125 || !strings.Contains(c.err.String(), "no space left") {
			t.Errorf("hvctl %q: exit code %d, %q", args, code, c.err.String())
		}
	}
}
