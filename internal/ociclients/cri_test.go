package ociclients

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/critest"
	"github.com/hvctl/hvctl/internal/testenv"
)

// TestKubernetesPod does what the kubelet does for a pod whose RuntimeClass is
// that of examples/kubernetes, on containerd with examples/containerd.
func TestKubernetesPod(t *testing.T) {
	dir := require(t, testenv.Containerd)
	// Between containerd and the runtime, so that it is seen who is called.
	between, calls := filepath.Join(dir, "between"), filepath.Join(dir, "calls")
	script := "#!/bin/sh\necho \"$@\" >>" + calls + "\nexec " + runtimeProgram() + " \"$@\"\n"
	if err := os.WriteFile(between, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	text := example(t, "containerd/config.toml", between) + "\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"" + image + "\"\n"
	d := startContainerd(t, dir, "k8s.io", text)
	logs := filepath.Join(dir, "logs")
	if err := os.Mkdir(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	c := critest.New(t, filepath.Join(dir, "c.sock"))
	eventually(t, "the interface answers", func() bool { _, err := c.Try("Version", nil); return err == nil })

	if _, err := c.Run(critest.Sandbox{Name: "nobody", Handler: "nosuchhandler", Logs: logs, Network: critest.InNode}); err == nil || !strings.Contains(err.Error(), "nosuchhandler") {
		t.Errorf("a handler that is not configured: %v", err)
	}
	p, err := c.Run(critest.Sandbox{Name: "one", Handler: handler, Logs: logs, Network: critest.InNode})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(calls); err != nil || !strings.Contains(string(b), " start "+p.ID) {
		t.Errorf("the handler did not call our runtime: %q, %v", b, err)
	}

	web := p.Start("web", critest.Message{}.Num(1, 100000).Num(2, 50000).Num(4, 64<<20), "sh", "-c", "trap 'exit 3' TERM; echo started; while :; do sleep 0.1; done")
	once := p.Start("once", nil, "sh", "-c", "echo once; exit 7")
	eventually(t, "the one that ends has ended", func() bool { state, _ := p.Status(once); return state == critest.Exited })
	if _, exit := p.Status(once); exit != 7 {
		t.Errorf("exit status %d, want 7", exit)
	}
	if state, _ := p.Status(web); state != critest.Running {
		t.Errorf("state %d, want running", state)
	}
	for file, want := range map[string]string{"web.log": "stdout F started", "once.log": "stdout F once"} {
		eventually(t, file+" has the output", func() bool {
			b, err := os.ReadFile(filepath.Join(logs, file))
			return err == nil && strings.Contains(string(b), want)
		})
	}
	if out, exit := p.Exec(web, "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max"); exit != 0 || out != "67108864\n50000 100000\n" {
		t.Errorf("limits: %q, exit %d", out, exit)
	}
	if _, exit := p.Exec(web, "sh", "-c", "exit 9"); exit != 9 {
		t.Errorf("exit status of exec: %d, want 9", exit)
	}
	if used := p.Call("ContainerStats", critest.Message{}.Str(1, web)).Sub(1).Sub(3).Sub(2).Num(1); used == 0 {
		t.Error("no memory is in use")
	}
	p.Call("UpdateContainerResources", critest.Message{}.Str(1, web).Msg(2, critest.Message{}.Num(4, 32<<20)))
	if out, _ := p.Exec(web, "cat", "/sys/fs/cgroup/memory.max"); out != "33554432\n" {
		t.Errorf("limit after an update: %q", out)
	}

	p.Call("StopContainer", critest.Message{}.Str(1, web).Num(2, 20))
	if state, exit := p.Status(web); state != critest.Exited || exit != 3 {
		t.Errorf("state %d, exit status %d; want exited by its own hand with 3", state, exit)
	}
	for _, id := range []string{web, once} {
		p.Call("RemoveContainer", critest.Message{}.Str(1, id))
	}
	p.Remove()
	if out := d.ok("containers", "ls", "-q"); out != "" {
		t.Errorf("left: %s", out)
	}
}
