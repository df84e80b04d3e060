package lazy

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/hvctl/hvctl/internal/uffd"
	"github.com/hvctl/hvctl/memory"
)

const lateEnv = "HVCTL_TEST_LATE"

// Whoever waits for a page that does not come does not hold up the process, with one
// processor for Go either. It runs in a process of its own, for else this one would
// stand still.
func TestAWaitForAPageDoesNotHoldUpTheProcess(t *testing.T) {
	if os.Getenv(lateEnv) == "" {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), lateEnv+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v, %v\n%s", err, ctx.Err(), out)
		}
		return
	}
	runtime.GOMAXPROCS(1)
	g := newRAM(t)
	u, err := uffd.Open()
	if err != nil {
		t.Fatal(err)
	}
	addr, err := uffd.Register(u, g.Regions()[0].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	g.SetLate(true)
	accesses := []func(at memory.GPA) error{
		func(at memory.GPA) error { _, err := g.LoadUint16(at); return err },
		func(at memory.GPA) error { return g.StoreUint16(at, 1) },
		func(at memory.GPA) error { return g.ReadAt(make([]byte, 8), at) },
		func(at memory.GPA) error { return g.WriteAt(make([]byte, 8), at) },
		func(at memory.GPA) error { // two pages
			b, err := g.Slice(at, 2*page)
			if err == nil && b[page] != 7 {
				t.Errorf("the second page begins with %d", b[page])
			}
			return err
		},
	}
	const apart = 4 * page
	done := make(chan error, len(accesses))
	for i, access := range accesses {
		go func() { done <- access(memory.GPA(i * apart)) }()
	}
	for waiting := 0; waiting < len(accesses); { // each has faulted, and waits
		_, ok, err := uffd.ReadFault(u)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			waiting++
		} else {
			runtime.Gosched()
		}
	}
	runtime.GC() // stops the world
	if len(done) > 0 {
		t.Error("somebody did not wait for a missing page")
	}
	for i := range accesses {
		if err := uffd.Copy(u, addr+uint64(i*apart), bytes.Repeat([]byte{7}, 2*page)); err != nil {
			t.Fatal(err)
		}
	}
	for range accesses {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	g.SetLate(false)
	if v, err := g.LoadUint16(apart); err != nil || v != 1 {
		t.Errorf("stored 1, loaded %d, %v", v, err)
	}
}
