package kvm

import (
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"testing"
)

// openFDs holds the stack that opened each descriptor which is not released.
var openFDs = struct {
	sync.Mutex
	next   int
	stacks map[int]string
}{stacks: map[int]string{}}

// TestMain fails when a test leaves a descriptor of this package open, and
// says where it was opened.
func TestMain(m *testing.M) {
	trackFD = func(name string) func() {
		openFDs.Lock()
		defer openFDs.Unlock()
		openFDs.next++
		id := openFDs.next
		openFDs.stacks[id] = fmt.Sprintf("%s opened by\n%s", name, debug.Stack())
		return func() {
			openFDs.Lock()
			defer openFDs.Unlock()
			delete(openFDs.stacks, id)
		}
	}
	code := m.Run()
	for _, s := range openFDs.stacks {
		fmt.Fprintf(os.Stderr, "descriptor never released: %s\n", s)
		code = 1
	}
	os.Exit(code)
}

func countFDs(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}
