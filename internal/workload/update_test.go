package workload_test

import (
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/workload"
)

func TestUpdatesThatCannotBeAreRefused(t *testing.T) {
	for says, u := range map[string]workload.Update{
		"no limit given":      {},
		`"sideways"`:          {Link: new(workload.LinkState("sideways"))},
		"a link and limits":   {Link: new(workload.LinkUp), CPUs: new(1.0)},
		"a disk and other":    {Disk: &workload.DiskUpdate{Serial: "disk0"}, Link: new(workload.LinkUp)},
		"a balloon and other": {BalloonBytes: new(uint64(1)), Link: new(workload.LinkDown)},
	} {
		if err := u.Check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v, want %q", u, err, says)
		}
	}
	for _, s := range []workload.LinkState{workload.LinkUp, workload.LinkDown} {
		if err := (workload.Update{Link: &s}).Check(); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}
