package testenv_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
)

// TestHelperMissing is run by the tests below in a child process.
func TestHelperMissing(t *testing.T) {
	if os.Getenv("TESTENV_HELPER") == "" {
		return
	}
	t.Setenv("HVCTL_TEST_KERNELS", "")
	testenv.Require(t, testenv.Linux)
	t.Log("reached the body")
}

func runHelper(t *testing.T, require string) (string, error) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^TestHelperMissing$", "-test.v")
	c.Env = append(os.Environ(), "TESTENV_HELPER=1", "HVCTL_REQUIRE="+require)
	out, err := c.CombinedOutput()
	return string(out), err
}

func TestMissingNeedSkips(t *testing.T) {
	out, err := runHelper(t, "")
	if err != nil || !strings.Contains(out, "--- SKIP") || strings.Contains(out, "reached the body") {
		t.Errorf("err %v, output:\n%s", err, out)
	}
}

func TestRequiredNeedFails(t *testing.T) {
	out, err := runHelper(t, "root,linux")
	if err == nil || !strings.Contains(out, "--- FAIL") || strings.Contains(out, "reached the body") {
		t.Errorf("err %v, output:\n%s", err, out)
	}
}
