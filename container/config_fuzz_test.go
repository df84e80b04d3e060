package container_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/container"
)

// FuzzConfig: whatever config.json holds, it is accepted or refused with at
// least one field named, and what is accepted is accepted again after having
// been written and read.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `{}`, `{"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"args":["a"],"cwd":"/"}}`,
		`{"ociVersion":"1.0.2","root":{"path":"r"},"process":{"args":["a"],"cwd":"/","user":{"uid":4294967295},"rlimits":[{"type":"RLIMIT_CORE","soft":2,"hard":1}],"capabilities":{"bounding":["CAP_X"]}}}`,
		`{"ociVersion":"1.3.0","root":{"path":"r"},"mounts":[{"destination":"a"},{"destination":"/b","options":["ro","size=1","idmap"]}],"hooks":{"prestart":[{"path":"x"}]}}`,
		`{"ociVersion":"1.0.2","root":{"path":"r"},"linux":{"namespaces":[{"type":"pid"},{"type":"pid"},{"type":"user"}],"uidMappings":[{"containerID":0,"hostID":1,"size":4294967295}],"sysctl":{"a":"b"},"devices":[{"path":"/dev/x","type":"q"}],"timeOffsets":{"boottime":{"secs":1}},"seccomp":{"defaultAction":"SCMP_ACT_X"},"cgroupsPath":"../x"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := container.Parse(b)
		if err == nil {
			err = container.Validate(s)
		}
		if err != nil {
			var field *container.FieldError
			if !errors.Is(err, container.ErrConfig) || errors.As(err, &field) && field.Field == "" || strings.TrimPrefix(err.Error(), container.ErrConfig.Error()+": ") == "" {
				t.Errorf("%v", err)
			}
			return
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if s, err = container.Parse(again); err == nil {
			err = container.Validate(s)
		}
		if err != nil {
			t.Errorf("accepted, and refused when written again: %v\n%s", err, again)
		}
	})
}
