package workload

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestCommandLineFollowsDocker(t *testing.T) {
	img := ImageDefaults{Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}}
	for _, c := range []struct {
		name string
		o    SpecOptions
		want []string
	}{
		{"image alone", SpecOptions{Image: img}, []string{"/entry", "serve"}},
		{"arguments replace cmd", SpecOptions{Image: img, Args: []string{"a", "b"}}, []string{"/entry", "a", "b"}},
		{"entrypoint drops cmd", SpecOptions{Image: img, Entrypoint: []string{"/sh"}}, []string{"/sh"}},
		{"entrypoint with arguments", SpecOptions{Image: img, Entrypoint: []string{"/sh"}, Args: []string{"-c"}}, []string{"/sh", "-c"}},
		{"cleared entrypoint", SpecOptions{Image: img, Entrypoint: []string{""}, Args: []string{"ls"}}, []string{"ls"}},
		{"cmd only", SpecOptions{Image: ImageDefaults{Cmd: []string{"bash"}}}, []string{"bash"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := NewSpec(c.o)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(s.Process.Args, c.want) {
				t.Errorf("args %q, want %q", s.Process.Args, c.want)
			}
		})
	}
	for _, o := range []SpecOptions{{}, {Image: img, Entrypoint: []string{""}}} {
		if _, err := NewSpec(o); !errors.Is(err, ErrNoCommand) {
			t.Errorf("%+v: %v, want ErrNoCommand", o, err)
		}
	}
}

func TestEnvironmentOverlays(t *testing.T) {
	s, err := NewSpec(SpecOptions{
		Image: ImageDefaults{Cmd: []string{"x"}, Env: []string{"PATH=/img", "A=1", "B=2"}},
		Env:   []string{"B=", "C=3=4", "A"}, Terminal: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"PATH=/img", "TERM=xterm", "B=", "C=3=4"}; !slices.Equal(s.Process.Env, want) {
		t.Errorf("env %q, want %q", s.Process.Env, want)
	}
	s, err = NewSpec(SpecOptions{Args: []string{"x"}})
	if err != nil || !slices.Equal(s.Process.Env, []string{"PATH=" + DefaultPath}) {
		t.Errorf("default env %q, %v", s.Process.Env, err)
	}
}

func TestParseUser(t *testing.T) {
	for _, c := range []struct {
		in   string
		want specs.User
		bad  bool
	}{
		{"", specs.User{}, false},
		{"1000:100", specs.User{UID: 1000, GID: 100}, false},
		{"1000", specs.User{UID: 1000, Username: "1000"}, false},
		{"www-data:5", specs.User{GID: 5, Username: "www-data:5"}, false},
		{"root", specs.User{Username: "root"}, false},
		{":5", specs.User{}, true},
		{"a:", specs.User{}, true},
		{"4294967295", specs.User{}, true},
		{"99999999999", specs.User{}, true},
		{"../x", specs.User{}, true},
	} {
		u, err := ParseUser(c.in)
		if (err != nil) != c.bad || (!c.bad && !reflect.DeepEqual(u, c.want)) {
			t.Errorf("ParseUser(%q) = %+v, %v; want %+v, error %v", c.in, u, err, c.want, c.bad)
		}
	}
}

func TestCapabilities(t *testing.T) {
	proc := func(o SpecOptions) *specs.LinuxCapabilities {
		t.Helper()
		o.Args = []string{"x"}
		p, err := NewProcess(o)
		if err != nil {
			t.Fatal(err)
		}
		return p.Capabilities
	}
	if c := proc(SpecOptions{}); len(c.Effective) != 14 || !slices.Contains(c.Bounding, "CAP_NET_RAW") {
		t.Errorf("default set %v", c)
	}
	if c := proc(SpecOptions{CapDrop: []string{"all"}, CapAdd: []string{"net_admin"}}); !slices.Equal(c.Bounding, []string{"CAP_NET_ADMIN"}) {
		t.Errorf("drop all, add one: %v", c.Bounding)
	}
	if c := proc(SpecOptions{CapAdd: []string{"ALL"}, CapDrop: []string{"CAP_SYS_ADMIN"}}); len(c.Bounding) != len(capability.Names)-1 || slices.Contains(c.Bounding, "CAP_SYS_ADMIN") {
		t.Errorf("add all, drop one: %v", c.Bounding)
	}
	if c := proc(SpecOptions{User: "1000:1000"}); c.Effective != nil || len(c.Bounding) != 14 {
		t.Errorf("unprivileged user: %+v", c)
	}
	if c := proc(SpecOptions{User: "daemon"}); c.Effective != nil {
		t.Errorf("named user got effective capabilities: %+v", c)
	}
	if _, err := NewProcess(SpecOptions{Args: []string{"x"}, CapAdd: []string{"fly"}}); err == nil || !strings.Contains(err.Error(), `"fly"`) {
		t.Errorf("unknown capability: %v", err)
	}
}

func TestSpecRefusesBadInput(t *testing.T) {
	for name, o := range map[string]SpecOptions{
		"relative cwd":   {Cwd: "tmp"},
		"NUL in args":    {Args: []string{"a", "b\x00"}},
		"empty program":  {Args: []string{"", "b"}},
		"env without =":  {Env: []string{"=x"}},
		"long hostname":  {Hostname: strings.Repeat("a", 64)},
		"odd hostname":   {Hostname: "a b"},
		"hostname dash":  {Hostname: "-a"},
		"unknown drop":   {CapDrop: []string{"NOPE"}},
		"bad user group": {User: "a:b:c/"},
	} {
		if o.Args == nil {
			o.Args = []string{"x"}
		}
		if s, err := NewSpec(o); err == nil {
			t.Errorf("%s: accepted as %+v", name, s.Process)
		}
	}
}

func TestRlimitsMergeByType(t *testing.T) {
	p, err := NewProcess(SpecOptions{Args: []string{"x"}, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}, {Type: "RLIMIT_NOFILE", Soft: 5, Hard: 6}}})
	if err != nil {
		t.Fatal(err)
	}
	want := []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 5, Hard: 6}, {Type: "RLIMIT_CORE"}}
	if !reflect.DeepEqual(p.Rlimits, want) {
		t.Errorf("%+v, want %+v", p.Rlimits, want)
	}
	if d := DefaultRlimits(); d[0].Soft == 5 {
		t.Error("the default was changed")
	}
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]unix.Signal{
		"TERM": 15, "sigterm": 15, "9": 9, "SIGRTMIN": 34, "rtmin+3": 37, "SIGRTMAX-1": 63, "WINCH": 28,
	} {
		if got, err := ParseSignal(in); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "65", "-1", "NOPE", "RTMIN+99", "RTMIN3", "RTMAX+1"} {
		if got, err := ParseSignal(in); err == nil {
			t.Errorf("%q: accepted as %d", in, got)
		}
	}
}

func FuzzParseUser(f *testing.F) {
	for _, s := range []string{"root", "1000:100", ":", "4294967295:1", "a:b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUser(s)
		if err == nil && u.Username == "" && s != "" && strings.Trim(s, "0123456789:") != "" {
			t.Errorf("%q: the name was lost: %+v", s, u)
		}
	})
}
