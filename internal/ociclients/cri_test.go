package ociclients

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/testenv"
)

// Fields of k8s.io/cri-api runtime/v1: see the messages named.
const (
	namespacePod       = 0 // NamespaceMode POD
	namespaceContainer = 1 // and CONTAINER
	namespaceNode      = 2 // and NODE

	stateRunning = 1 // ContainerState
	stateExited  = 2
)

// pod is a sandbox as the kubelet asks for one, in the host's network, so that
// no CNI plugin is needed.
type pod struct {
	*cri
	config message // PodSandboxConfig
	id     string
}

func (c *cri) runPod(name, handler, logs string) (*pod, error) {
	return c.runPodIn(namespaceNode, name, handler, logs)
}

// runPodIn is runPod in a network of that mode.
func (c *cri) runPodIn(network uint64, name, handler, logs string) (*pod, error) {
	security := message{}.msg(1, message{}.num(1, network)) // LinuxSandboxSecurityContext.namespace_options
	config := message{}.
		msg(1, message{}.str(1, name).str(2, "uid-"+name).str(3, "default")). // metadata
		str(3, logs).                                                         // log_directory; no hostname in the host's network
		msg(8, message{}.str(1, "/kubepods-"+name).msg(2, security))          // linux
	r, err := c.try("RunPodSandbox", message{}.msg(1, config).str(2, handler))
	if err != nil {
		return nil, err
	}
	return &pod{c, config, r.str(1)}, nil
}

// start creates and starts a container of the pod, in its PID namespace.
func (p *pod) start(name string, resources message, command ...string) (id string) {
	p.t.Helper()
	return p.startAs(name, message{}.msg(1, resources), command...)
}

// startAs is start with a LinuxContainerConfig.
func (p *pod) startAs(name string, linux message, command ...string) (id string) {
	p.t.Helper()
	config := message{}.msg(1, message{}.str(1, name)).msg(2, message{}.str(1, image)).str(3, command...).
		str(11, name+".log").msg(15, linux) // ContainerConfig
	id = p.call("CreateContainer", message{}.str(1, p.id).msg(2, config).msg(3, p.config)).str(1)
	p.call("StartContainer", message{}.str(1, id))
	return id
}

// status returns a container's state and exit status.
func (p *pod) status(id string) (state, exit uint64) {
	p.t.Helper()
	s := p.call("ContainerStatus", message{}.str(1, id)).sub(1)
	return s[3].num, s[7].num
}

// exec runs a command in a container.
func (p *pod) exec(id string, command ...string) (out string, exit uint64) {
	p.t.Helper()
	r := p.call("ExecSync", message{}.str(1, id).str(2, command...).num(3, 30))
	return r.str(1), r[3].num
}

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
	d := startContainerd(t, dir, text)
	d.ctr[len(d.ctr)-1] = "k8s.io"
	d.ok("images", "import", filepath.Join(dir, "image.tar"))
	logs := filepath.Join(dir, "logs")
	if err := os.Mkdir(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	c := newCRI(t, filepath.Join(dir, "c.sock"))
	eventually(t, "the interface answers", func() bool { _, err := c.try("Version", nil); return err == nil })

	if _, err := c.runPod("nobody", "nosuchhandler", logs); err == nil || !strings.Contains(err.Error(), "nosuchhandler") {
		t.Errorf("a handler that is not configured: %v", err)
	}
	p, err := c.runPod("one", handler, logs)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(calls); err != nil || !strings.Contains(string(b), " start "+p.id) {
		t.Errorf("the handler did not call our runtime: %q, %v", b, err)
	}

	web := p.start("web", message{}.num(1, 100000).num(2, 50000).num(4, 64<<20), "sh", "-c", "echo started; trap 'exit 3' TERM; while :; do sleep 0.1; done")
	once := p.start("once", nil, "sh", "-c", "echo once; exit 7")
	eventually(t, "the one that ends has ended", func() bool { state, _ := p.status(once); return state == stateExited })
	if _, exit := p.status(once); exit != 7 {
		t.Errorf("exit status %d, want 7", exit)
	}
	if state, _ := p.status(web); state != stateRunning {
		t.Errorf("state %d, want running", state)
	}
	for file, want := range map[string]string{"web.log": "stdout F started", "once.log": "stdout F once"} {
		eventually(t, file+" has the output", func() bool {
			b, err := os.ReadFile(filepath.Join(logs, file))
			return err == nil && strings.Contains(string(b), want)
		})
	}
	if out, exit := p.exec(web, "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max"); exit != 0 || out != "67108864\n50000 100000\n" {
		t.Errorf("limits: %q, exit %d", out, exit)
	}
	if _, exit := p.exec(web, "sh", "-c", "exit 9"); exit != 9 {
		t.Errorf("exit status of exec: %d, want 9", exit)
	}
	if used := p.call("ContainerStats", message{}.str(1, web)).sub(1).sub(3).sub(2)[1].num; used == 0 {
		t.Error("no memory is in use")
	}
	p.call("UpdateContainerResources", message{}.str(1, web).msg(2, message{}.num(4, 32<<20)))
	if out, _ := p.exec(web, "cat", "/sys/fs/cgroup/memory.max"); out != "33554432\n" {
		t.Errorf("limit after an update: %q", out)
	}

	p.call("StopContainer", message{}.str(1, web).num(2, 20))
	if state, exit := p.status(web); state != stateExited || exit != 3 {
		t.Errorf("state %d, exit status %d; want exited by its own hand with 3", state, exit)
	}
	for _, id := range []string{web, once} {
		p.call("RemoveContainer", message{}.str(1, id))
	}
	p.call("StopPodSandbox", message{}.str(1, p.id))
	p.call("RemovePodSandbox", message{}.str(1, p.id))
	if out := d.ok("containers", "ls", "-q"); out != "" {
		t.Errorf("left: %s", out)
	}
}
