package commit_test

import (
	"bufio"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/migrate/commit"
)

// holdIn has this program take a hold and wait for the end of its input.
const holdIn = "HVCTL_TEST_HOLD"

func TestHolderIsAnotherProcess(t *testing.T) {
	if dir := os.Getenv(holdIn); dir != "" {
		if _, err := commit.TakeHold(dir); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("held\n")
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	dir := t.TempDir()
	if fd, err := commit.Holder(dir); fd != -1 || err != nil {
		t.Errorf("of none: %d, %v", fd, err)
	}
	c := exec.Command(os.Args[0], "-test.run", "^TestHolderIsAnotherProcess$")
	c.Env = append(os.Environ(), holdIn+"="+dir)
	if _, err := c.StdinPipe(); err != nil { // open until it is killed
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	fd, err := commit.Holder(dir)
	if err != nil || fd < 0 {
		t.Fatalf("held: %d, %v", fd, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Error("it was another process that was killed")
	}
	if fd, err := commit.Holder(dir); fd != -1 || err != nil {
		t.Errorf("after its end: %d, %v", fd, err)
	}
}
