package proctable

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestOwnChildIsListed(t *testing.T) {
	c := exec.Command("cat", "-")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	// Once it answers it is the program, and has memory of its own.
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	const gone = 1 << 30 // above the kernel's largest
	ps, err := Read([]int{gone, c.Process.Pid, os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if len(ps) != 2 {
		t.Fatalf("%+v", ps)
	}
	for _, p := range ps {
		if p.PID != c.Process.Pid {
			continue
		}
		if p.PPID != os.Getpid() || p.UID != uint32(os.Geteuid()) || p.Threads != 1 || p.RSS == 0 || p.Age < 0 || p.Age > time.Minute {
			t.Errorf("%+v", p)
		}
		if p.Command != "cat -" {
			t.Errorf("command %q", p.Command)
		}
	}
}

func TestStatOfAnyName(t *testing.T) {
	line := "7 (a) R (b\n) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 1000 4096 2 18446744073709551615"
	var p Process
	if err := p.parseStat([]byte(line), 15*time.Second); err != nil {
		t.Fatal(err)
	}
	want := Process{State: "S", CPU: 3 * time.Second, Threads: 3, Age: 5 * time.Second, RSS: 2 * uint64(os.Getpagesize()), Command: "[a) R (b\n]"}
	if p != want {
		t.Errorf("%+v, want %+v", p, want)
	}
	for _, bad := range []string{"", "7 (a", "7 (a) S 1"} {
		if p.parseStat([]byte(bad), 0) == nil {
			t.Errorf("%q was understood", bad)
		}
	}
}

func TestNumbersAreThoseInside(t *testing.T) {
	var p Process
	parent, err := p.parseStatus([]byte("Name:\tx\nPPid:\t41\nUid:\t1\t2\t3\t4\nNSpid:\t42\t2\t1\n"), 42)
	if err != nil || parent != 41 || p.PID != 1 || p.UID != 2 {
		t.Errorf("%+v, parent %d, %v", p, parent, err)
	}
}

func TestCommandIsBounded(t *testing.T) {
	if got := command([]byte("sh\x00-c\x00x y\x00")); got != "sh -c x y" {
		t.Errorf("%q", got)
	}
	if got := command([]byte(strings.Repeat("x\x00", MaxCommand))); len(got) != MaxCommand {
		t.Errorf("%d bytes", len(got))
	}
}
