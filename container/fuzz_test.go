package container

import (
	"testing"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/program"
)

// FuzzConfig takes any config.json all the way to the program that would be
// run: it is refused, or it has one.
func FuzzConfig(f *testing.F) {
	for _, s := range []string{
		`{"ociVersion":"1.2.0","root":{"path":"r"},"process":{"args":["a"],"cwd":"/"}}`,
		`{"ociVersion":"1.2.0","root":{"path":"r","readonly":true},"hostname":"h","mounts":[{"destination":"/m","type":"tmpfs","options":["tmpcopyup","ro","size=1"]},
		 {"destination":"/b","source":"/x","options":["rbind","ro","idmap"]},{"destination":"/c","type":"cgroup"},{"destination":"/proc","type":"proc"}],
		 "linux":{"namespaces":[{"type":"mount"},{"type":"uts"},{"type":"network"}],"devices":[{"path":"/dev/x","type":"c","major":1,"minor":2}],
		 "maskedPaths":["/a"],"readonlyPaths":["/b"],"sysctl":{"net.x":"1"},"rootfsPropagation":"private","seccomp":{"defaultAction":"SCMP_ACT_ALLOW"}},
		 "process":{"args":["a"],"cwd":"/","terminal":true,"env":["PATH=a:b"],"capabilities":{"bounding":["CAP_CHOWN"]},"rlimits":[{"type":"RLIMIT_AS","soft":1,"hard":2}],
		 "scheduler":{"policy":"SCHED_BATCH"},"ioPriority":{"class":"IOPRIO_CLASS_BE"},"execCPUAffinity":{"final":"0-3"}}}`,
		`{"windows":{},"vm":null}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil || Validate(s) != nil {
			return
		}
		p, err := buildPlan(s, &record{ID: "x", Rootfs: "/"})
		if err != nil {
			return
		}
		if err := new(Runtime).filter(p.Process, s.Linux); err != nil {
			return
		}
		_ = program.Create(&program.Container{Plan: p, UserNS: plan.None, PIDNS: plan.None, Start: plan.None, Console: plan.None, Notify: plan.None})
	})
}
