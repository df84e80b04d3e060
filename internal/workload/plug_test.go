package workload

import (
	"strings"
	"testing"
)

func TestWhatIsPluggedIsChecked(t *testing.T) {
	disk := &Disk{Path: "/d"}
	for name, c := range map[string]struct {
		r    PlugRequest
		want string // in the error; "" is none
	}{
		"a disk":         {PlugRequest{ID: "data-1_A", Disk: disk, TimeoutSeconds: 5}, ""},
		"without an id":  {PlugRequest{Disk: disk}, ""},
		"nothing":        {PlugRequest{}, "one device"},
		"two":            {PlugRequest{Disk: disk, Net: &PlugNet{}}, "one device"},
		"a dot":          {PlugRequest{ID: "a.b", Disk: disk}, `"a.b"`},
		"a newline":      {PlugRequest{ID: "a\nb", Disk: disk}, "letters"},
		"too long":       {PlugRequest{ID: strings.Repeat("a", 21), Disk: disk}, "letters"},
		"uring":          {PlugRequest{Disk: &Disk{Path: "/d", Engine: "uring"}}, "plain engine"},
		"for ever":       {PlugRequest{Disk: disk, TimeoutSeconds: MaxPlugTimeout + 1}, "timeout"},
		"less than none": {PlugRequest{Disk: disk, TimeoutSeconds: -1}, "timeout"},
	} {
		if err := c.r.Check(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if err := (&UnplugRequest{}).Check(); err == nil {
		t.Error("no device named is accepted")
	}
}
