package ocisystemd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/internal/critest"
	"github.com/hvctl/hvctl/internal/testenv"
)

// containerd is as machines have it whose kubelet's cgroupDriver is systemd.
func containerd(h *host) {
	testenv.Require(h.t, testenv.Containerd)
	const dir, example = "/run/cd", "../../examples/containerd/config.toml"
	b, err := os.ReadFile(example)
	if err != nil {
		h.t.Fatal(err)
	}
	const installed, option = `"/usr/local/bin/hvctl-oci"`, "# SystemdCgroup = true\n"
	text := string(b)
	for _, s := range []string{installed, option} {
		if strings.Count(text, s) != 1 {
			h.t.Fatalf("%s does not have %q once", example, s)
		}
	}
	text = strings.NewReplacer(installed, strconv.Quote(h.program), option, option[2:]).Replace(text) +
		fmt.Sprintf("\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = %q\n", critest.Image)
	there := filepath.Join("/proc", strconv.Itoa(h.pid), "root", dir)
	if err := os.MkdirAll(there+"/logs", 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(there+"/config.toml", []byte(critest.Config(text, dir)), 0o644); err != nil {
		h.t.Fatal(err)
	}
	daemon := h.command(context.Background(), "sh", "-c", "echo $$ >"+dir+"/pid; exec containerd --config "+dir+"/config.toml >"+dir+"/log 2>&1")
	if err := daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if pid, err := os.ReadFile(there + "/pid"); err == nil {
			h.do("kill", strings.TrimSpace(string(pid)))
			_ = daemon.Wait()
		}
		if b, _ := os.ReadFile(there + "/log"); h.t.Failed() {
			h.t.Logf("containerd's log ends with:\n%s", b[max(0, len(b)-3000):])
		}
	})
	image := critest.Archive(h.t, h.dir)
	h.eventually("containerd takes the image", func() bool {
		return h.do("ctr", "--address", dir+"/c.sock", "--namespace", "k8s.io", "images", "import", image).code == 0
	})

	pod, err := critest.New(h.t, there+"/c.sock").Run(critest.Sandbox{Name: "one", Handler: "hvctl", Logs: dir + "/logs", Network: critest.InNode, Parent: "/test.slice/test-pod.slice"})
	if err != nil {
		h.t.Fatal(err)
	}
	sandbox := "cri-containerd-" + pod.ID + ".scope"
	h.has(sandbox, "Slice", "test-pod.slice", "ActiveState", "active")
	id := pod.Start("web", critest.Message{}.Num(1, 100000).Num(2, 50000).Num(4, 64<<20), "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done")
	unit := "cri-containerd-" + id + ".scope"
	h.has(unit, "Slice", "test-pod.slice", "ControlGroup", "/test.slice/test-pod.slice/"+unit, "MemoryMax", "67108864", "CPUQuotaPerSecUSec", "500ms",
		"memory.max", "67108864", "cpu.max", "50000 100000")
	if out, exit := pod.Exec(id, "cat", "/proc/self/cgroup"); exit != 0 || out != "0::/\n" {
		h.t.Errorf("exec is in %q of the container's, exit status %d", out, exit)
	}
	if used := pod.Call("ContainerStats", critest.Message{}.Str(1, id)).Sub(1).Sub(3).Sub(2).Num(1); used == 0 {
		h.t.Error("no memory is in use")
	}
	pod.Call("UpdateContainerResources", critest.Message{}.Str(1, id).Msg(2, critest.Message{}.Num(4, 32<<20)))
	if r := h.systemctl("daemon-reload"); r.code != 0 {
		h.t.Fatal(r)
	}
	h.has(unit, "MemoryMax", "33554432", "memory.max", "33554432")
	pod.Call("StopContainer", critest.Message{}.Str(1, id).Num(2, 20))
	if state, exit := pod.Status(id); state != critest.Exited || exit != 3 {
		h.t.Errorf("state %d, exit status %d; want exited by its own hand with 3", state, exit)
	}
	pod.Call("RemoveContainer", critest.Message{}.Str(1, id))
	h.gone(unit)
	pod.Remove()
	h.gone(sandbox)
}
