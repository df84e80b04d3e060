package workload

import (
	"errors"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func description(t testing.TB) []byte {
	t.Helper()
	d := Description{
		Created: time.Unix(1, 0).UTC(), Rootfs: FileMark{Size: 1, Digest: "ab"}, IP: "10.0.0.2",
		Config: &Config{ID: "x", Name: "web", Spec: &specs.Spec{Process: &specs.Process{Args: []string{"a"}}}, VM: VM{Disks: []Disk{{Path: "/d"}}}},
		Disks:  []SnapshotDisk{{Name: "disk0"}},
	}
	b, err := d.Describe()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDescriptionsComeBack(t *testing.T) {
	d, err := ParseDescription(description(t))
	if err != nil || d.Config.Name != "web" || d.Disks[0].Name != "disk0" || d.Version != descriptionVersion {
		t.Errorf("%+v, %v", d, err)
	}
	for name, bad := range map[string]string{
		"nothing":         ``,
		"no object":       `[]`,
		"newer":           `{"version":2}`,
		"no config":       `{"version":1}`,
		"unknown field":   `{"version":1,"config":{"spec":{"process":{"args":["a"]}}},"more":1}`,
		"more after it":   string(description(t)) + "{}",
		"disks that lack": `{"version":1,"config":{"id":"","name":"","backend":"","image":{"ref":"","digest":""},"rootfs":{},"spec":{"ociVersion":"","process":{"user":{"uid":0,"gid":0},"cwd":""}},"resources":{},"network":{"mode":""},"vm":{"disks":[{"path":"/d"}]},"stopTimeoutSeconds":0}}`,
	} {
		if _, err := ParseDescription([]byte(bad)); !errors.Is(err, ErrDescription) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzDescription: anything is a description that can be written again, or is
// refused with ErrDescription.
func FuzzDescription(f *testing.F) {
	f.Add(description(f))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDescription(b)
		if err != nil {
			if !errors.Is(err, ErrDescription) {
				t.Errorf("refused with %v", err)
			}
			return
		}
		again, err := d.Describe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseDescription(again); err != nil {
			t.Errorf("what was taken is not taken again: %v", err)
		}
	})
}
