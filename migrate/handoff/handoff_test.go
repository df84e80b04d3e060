package handoff_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/handoff"
)

// The test binary plays the old process and the new one. What it is told:
const (
	roleEnv = "HVCTL_TEST_HANDOFF" // old or new
	dieEnv  = "HVCTL_TEST_DIE"     // ROLE:STEP at which to be killed
	hangEnv = "HVCTL_TEST_HANG"    // ROLE:STEP at which to stop for ever
	failEnv = "HVCTL_TEST_FAIL"    // what fails: prepare, load, run, pause, save
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "old":
		os.Exit(old())
	case "new":
		os.Exit(successor())
	}
	os.Exit(m.Run())
}

// Words of the memory that all processes share: who runs the guest counts in its
// own word, in steps that the other's count must never overtake.
const (
	ramSize   = 1 << 20
	oldCount  = 0x1000
	newCount  = 0x2000
	bothAlive = 0x3000 // times that two runners were seen
)

// fake is a machine whose guest is a goroutine.
type fake struct {
	ram   *memory.Guest
	mine  memory.GPA
	other memory.GPA
	stop  chan struct{}
	ended chan struct{}
}

func (f *fake) run() {
	f.stop, f.ended = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(f.ended)
		last, _ := f.ram.LoadUint16(f.other)
		for n, _ := f.ram.LoadUint16(f.mine); ; n++ {
			_ = f.ram.StoreUint16(f.mine, n+1)
			if o, _ := f.ram.LoadUint16(f.other); o != last {
				_ = f.ram.StoreUint16(bothAlive, 1)
				last = o
			}
			select {
			case <-f.stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
}

func (f *fake) Pause(context.Context) error {
	if failing("pause") {
		return errors.New("a device does not stop")
	}
	close(f.stop)
	<-f.ended
	return nil
}

func (f *fake) Resume(context.Context) error {
	if f.mine == newCount && failing("run") {
		return errors.New("no vCPU")
	}
	f.run()
	return nil
}

func (f *fake) SaveState() ([]state.Section, error) {
	if failing("save") {
		return nil, errors.New("a device cannot be saved")
	}
	s, err := state.Save("fake", fakeState{})
	return []state.Section{s}, err
}

func (f *fake) LoadState(s []state.Section) error {
	if failing("load") {
		return errors.New("not this state")
	}
	if len(s) != 1 || s[0].Path != "fake" {
		return fmt.Errorf("sections %v", s)
	}
	return nil
}

type fakeState struct{}

func (fakeState) StateVersion() uint32          { return 1 }
func (fakeState) SaveState() (any, error)       { return strings.Repeat("x", 1<<20), nil }
func (fakeState) LoadState(state.Decoder) error { return nil }

func failing(what string) bool { return os.Getenv(failEnv) == what }

// step dies or hangs where the test wants it.
func step(role string) func(string) {
	return func(s string) {
		switch role + ":" + s {
		case os.Getenv(dieEnv):
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			untilKilled()
		case os.Getenv(hangEnv):
			untilKilled()
		}
	}
}

// old has the guest, hands it to a new process, and lives on until it is killed.
func old() int {
	ram, err := memory.New(memory.Options{Size: ramSize, Adopt: os.NewFile(3, "ram")})
	check(err)
	f := &fake{ram: ram, mine: oldCount, other: newCount}
	f.run()
	here, there, err := handoff.Pair()
	check(err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"=new")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{there}, os.Stderr
	check(cmd.Start())
	_ = there.Close()
	gone := make(chan struct{})
	go func() { _ = cmd.Wait(); close(gone) }()
	l, err := handoff.NewLink(here)
	check(err)
	_ = here.Close()
	fd, err := unix.Dup(ram.FD())
	check(err)
	offer := handoff.Offer{Description: json.RawMessage(`{"a":1}`), Files: []handoff.File{{Name: "ram", File: os.NewFile(uintptr(fd), "ram")}}}
	for range 200 { // more than one message holds
		offer.Files = append(offer.Files, handoff.File{Name: "null", File: os.Stdin})
	}
	r, err := handoff.Give(context.Background(), l, f, offer, handoff.Options{
		Kill: func() error { _ = cmd.Process.Kill(); <-gone; return nil }, At: step("old"),
		Prepare: 5 * time.Second, Blackout: 2 * time.Second,
	})
	switch {
	case err == nil:
		fmt.Println("moved", r.StateBytes, r.BlackoutNs > 0)
	case errors.Is(err, handoff.ErrLost):
		fmt.Println("lost:", err)
	case errors.Is(err, handoff.ErrStopped):
		fmt.Println("stopped:", err)
	default:
		fmt.Println("kept:", err)
	}
	untilKilled()
	return 1
}

// successor takes the guest over.
func successor() int {
	l, err := handoff.NewLink(os.NewFile(3, "link"))
	check(err)
	err = handoff.Take(context.Background(), l, func(_ context.Context, o handoff.Offer) (handoff.Successor, error) {
		if failing("prepare") {
			return nil, errors.New("no such device here")
		}
		if len(o.Files) != 201 || o.Files[0].Name != "ram" || string(o.Description) != `{"a":1}` {
			return nil, fmt.Errorf("offer %s of %d files", o.Description, len(o.Files))
		}
		ram, err := memory.New(memory.Options{Size: ramSize, Adopt: o.Files[0].File})
		return &fake{ram: ram, mine: newCount, other: oldCount}, err
	}, step("new"))
	if err != nil {
		return 1
	}
	untilKilled()
	return 1
}

// untilKilled does not return. An empty select would end the process as a
// deadlock, where cgo's thread does not prevent that.
func untilKilled() {
	for {
		time.Sleep(time.Hour)
	}
}

func check(err error) {
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// trial is one hand-over between processes of their own.
type trial struct {
	t    *testing.T
	ram  *memory.Guest
	old  *exec.Cmd
	line chan string
}

func hand(t *testing.T, env ...string) *trial {
	t.Helper()
	ram, err := memory.New(memory.Options{Size: ramSize})
	if err != nil {
		t.Fatal(err)
	}
	tr := &trial{t: t, ram: ram, line: make(chan string, 1)}
	fd, err := unix.Dup(ram.FD())
	if err != nil {
		t.Fatal(err)
	}
	shared := os.NewFile(uintptr(fd), "ram")
	defer shared.Close()
	tr.old = exec.Command(os.Args[0])
	tr.old.Env = append(os.Environ(), append(env, roleEnv+"=old")...)
	tr.old.ExtraFiles, tr.old.Stderr = []*os.File{shared}, os.Stderr
	tr.old.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	out, err := tr.old.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.old.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(-tr.old.Process.Pid, unix.SIGKILL)
		_ = tr.old.Wait()
		_ = ram.Close()
	})
	go func() {
		b := make([]byte, 4096)
		n, _ := out.Read(b)
		tr.line <- string(b[:n])
	}()
	return tr
}

// runs reports whether a word counts on.
func (tr *trial) runs(at memory.GPA) bool {
	before, _ := tr.ram.LoadUint16(at)
	for deadline := time.Now().Add(300 * time.Millisecond); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if now, _ := tr.ram.LoadUint16(at); now != before {
			return true
		}
	}
	return false
}

// TestWhereverOneSideDiesThereAreNeverTwoRunners kills, stops or fails either
// process at every step.
func TestWhereverOneSideDiesThereAreNeverTwoRunners(t *testing.T) {
	const nobody = memory.GPA(0)
	for _, tc := range []struct {
		env  string
		says string // by the old process; "" when it is dead
		runs memory.GPA
	}{
		{"", "moved 1048", newCount},

		{dieEnv + "=new:prepare", "kept: the new process ended before it was prepared", oldCount},
		{dieEnv + "=new:load", "kept: the new process ended before it was ready", oldCount},
		{dieEnv + "=new:ready", "kept: the new process ended before it was ready", oldCount},
		{dieEnv + "=new:taking", "kept: the new process ended", oldCount},
		{dieEnv + "=new:running", "lost: ", nobody},

		{dieEnv + "=old:offer", "", nobody},
		{dieEnv + "=old:pause", "", nobody},
		{dieEnv + "=old:save", "", nobody},
		{dieEnv + "=old:state", "", nobody},
		{dieEnv + "=old:go", "", nobody},
		{dieEnv + "=old:gone", "", newCount},
		{dieEnv + "=old:taken", "", newCount},

		{hangEnv + "=new:prepare", "kept: the new process was not prepared within 5s", oldCount},
		{hangEnv + "=new:load", "kept: the new process was not ready within", oldCount},
		{hangEnv + "=new:taking", "kept: ", oldCount},

		{failEnv + "=prepare", "kept: the new process: no such device here", oldCount},
		{failEnv + "=pause", "kept: pause: a device does not stop", oldCount},
		{failEnv + "=save", "kept: save: a device cannot be saved", oldCount},
		{failEnv + "=load", "kept: the new process: not this state", oldCount},
		{failEnv + "=run", "lost: ", nobody},
	} {
		t.Run(strings.TrimPrefix(tc.env, "HVCTL_TEST_"), func(t *testing.T) {
			t.Parallel()
			tr := hand(t, tc.env)
			select {
			case line := <-tr.line:
				if !strings.HasPrefix(line, tc.says) || (line == "") != (tc.says == "") {
					t.Errorf("the old process says %q, want %q", line, tc.says)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("the old process says nothing")
			}
			if tc.runs == newCount { // the old one may be dead before it has begun
				for deadline := time.Now().Add(10 * time.Second); !tr.runs(newCount) && time.Now().Before(deadline); {
				}
			}
			for _, who := range []memory.GPA{oldCount, newCount} {
				if got := tr.runs(who); got != (who == tc.runs) {
					t.Errorf("runner at %v: %v, want %v", who, got, who == tc.runs)
				}
			}
			if both, _ := tr.ram.LoadUint16(bothAlive); both != 0 {
				t.Error("two ran at a time")
			}
		})
	}
}
