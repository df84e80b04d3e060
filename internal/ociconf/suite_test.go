package ociconf

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
)

// TestConformance holds hvctl-oci to docs/results: a program that it passed on
// a machine with cgroups of this kind still passes.
func TestConformance(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup, testenv.OCISuite)
	mode := Mode()
	golden, err := Load("../../docs/results/conformance-" + mode + ".json")
	if os.IsNotExist(err) {
		t.Skipf("no results for %s: scripts/conformance makes them", mode)
	} else if err != nil {
		t.Fatal(err)
	}
	ours := golden.Of(Ours)
	if ours == nil {
		t.Fatalf("no column %s in the results for %s", Ours, mode)
	}
	var programs []string
	for _, p := range slices.Sorted(maps.Keys(ours.Programs)) {
		if ours.Programs[p].Passed {
			programs = append(programs, p)
		}
	}
	suite, err := Open(testenv.OCISuiteDir())
	if err != nil {
		t.Fatal(err)
	}
	got, err := suite.Run(t.Context(), filepath.Join(os.Getenv("HVCTL_BIN"), Ours), Host, programs)
	if err != nil {
		t.Fatal(err)
	}
	for _, lost := range Regressions(ours.Programs, got) {
		if program, _, _ := strings.Cut(lost, ":"); racy[program] != "" {
			t.Logf("%s, which is no failure: %s", lost, racy[program])
			continue
		}
		t.Error(lost)
	}
	t.Logf("%d of %d programs pass on %s", (&Runtime{Programs: got}).Passed(), len(ours.Programs), mode)
}

// TestAppArmorProgramPassesWithAppArmor: the suite's own program for profiles,
// where there is what it asks for.
func TestAppArmorProgramPassesWithAppArmor(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup, testenv.OCISuite, testenv.AppArmor)
	testenv.LoadAppArmorProfile(t, "acme_secure_profile")
	suite, err := Open(testenv.OCISuiteDir())
	if err != nil {
		t.Fatal(err)
	}
	const program = "linux_process_apparmor_profile"
	got, err := suite.Run(t.Context(), filepath.Join(os.Getenv("HVCTL_BIN"), Ours), Host, []string{program})
	if err != nil {
		t.Fatal(err)
	}
	if !got[program].Passed {
		t.Errorf("%+v", got[program])
	}
}

// TestSuiteSeesABrokenRuntime: a runtime that says yes to everything does not
// pass.
func TestSuiteSeesABrokenRuntime(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Cgroup, testenv.OCISuite)
	suite, err := Open(testenv.OCISuiteDir())
	if err != nil {
		t.Fatal(err)
	}
	got, err := suite.Run(t.Context(), "/bin/true", Host, []string{"create", "linux_devices"})
	if err != nil {
		t.Fatal(err)
	}
	for program, o := range got {
		if o.Passed {
			t.Errorf("%s passes with a runtime that does nothing", program)
		}
	}
}
