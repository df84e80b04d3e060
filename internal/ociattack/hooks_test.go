package ociattack

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestHookThatHangsIsEndedWithItsChildren: the timeout of a hook ends what the
// hook started, too.
func TestHookThatHangsIsEndedWithItsChildren(t *testing.T) {
	h := newHost(t)
	b := h.bundle("true")
	pids := filepath.Join(h.dir, "pids")
	timeout := 1
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{
		Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 1000 & echo $$ $! >" + pids + "; wait"}, Timeout: &timeout,
	}}}
	began := time.Now()
	r := b.run()
	if took := time.Since(began); r.code == 0 || took > 20*time.Second {
		t.Errorf("after %v: %v", took, r)
	}
	fields := strings.Fields(readFile(t, pids))
	if len(fields) != 2 {
		t.Fatalf("the hook did not run: %q", fields)
	}
	for _, f := range fields {
		pid, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "process "+f+" of the hook is gone", func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
	}
}

// TestRelativeHooksAreRefused: the path of a hook is absolute, so that no
// search path and no working directory decides what runs as root.
func TestRelativeHooksAreRefused(t *testing.T) {
	h := newHost(t)
	hook := []specs.Hook{{Path: "hook.sh"}}
	for name, hooks := range map[string]*specs.Hooks{
		"prestart": {Prestart: hook}, "createRuntime": {CreateRuntime: hook}, "createContainer": {CreateContainer: hook},
		"startContainer": {StartContainer: hook}, "poststart": {Poststart: hook}, "poststop": {Poststop: hook},
	} {
		t.Run(name, func(t *testing.T) {
			b := h.bundle("true")
			b.spec.Hooks = hooks
			made := filepath.Join(h.dir, "made-"+name)
			for _, dir := range []string{b.dir, b.rootfs} {
				if err := os.WriteFile(filepath.Join(dir, "hook.sh"), []byte("#!/bin/sh\ntouch "+made+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			r := b.runWith(nil)
			if r.code == 0 || !strings.Contains(r.err, "hooks."+name+"[0].path") {
				t.Errorf("%v", r)
			}
			if _, err := os.Stat(made); err == nil {
				t.Error("the hook ran")
			}
		})
	}
}

// TestNoAnnotationIsUnsafe: engines that pass annotations of users on ask
// features which of them to keep back. None means anything here, not even to
// checkpoints, for which runc reads a configuration that org.criu.config names.
func TestNoAnnotationIsUnsafe(t *testing.T) {
	h := newHost(t)
	var f struct {
		Unsafe []string `json:"potentiallyUnsafeConfigAnnotations"`
	}
	if err := json.Unmarshal([]byte(h.ok("features")), &f); err != nil {
		t.Fatal(err)
	}
	if len(f.Unsafe) != 0 {
		t.Errorf("declared: %q", f.Unsafe)
	}
}
