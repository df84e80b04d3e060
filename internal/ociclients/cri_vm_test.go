package ociclients

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/critest"
	"github.com/hvctl/hvctl/internal/testenv"
	"golang.org/x/sys/unix"
)

// podNetwork is a CNI configuration of the usual kind.
const podNetwork = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "hvctlcni0", "isGateway": true,
	"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.77.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}`

// TestKubernetesPodInAVM does what the kubelet does for a pod whose RuntimeClass is
// hvctl-vm: its containers are in one VM on the pod's network.
func TestKubernetesPodInAVM(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Images)
	dir := require(t, testenv.Containerd)
	t.Setenv("HVCTL_STORE", testenv.TestStore()) // passed on by containerd
	logs, cni := filepath.Join(dir, "logs"), filepath.Join(dir, "cni")
	for _, d := range []string{logs, cni} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(cni, "10-pods.conflist"), fmt.Appendf(nil, podNetwork, dir+"/ipam"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { run(t, nil, "ip", "link", "delete", "hvctlcni0") }) // CNI leaves its bridge
	text := exampleFor(t, "containerd/config.toml", "hvctl-oci-vm", filepath.Join(os.Getenv("HVCTL_BIN"), "hvctl-oci-vm"))
	text += fmt.Sprintf("\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = %q\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = %q\n", image, cni)
	d := startContainerd(t, dir, "k8s.io", text)
	c := critest.New(t, filepath.Join(dir, "c.sock"))
	eventually(t, "the interface answers", func() bool { _, err := c.Try("Version", nil); return err == nil })

	p, err := c.Run(critest.Sandbox{Name: "vm", Handler: vmHandler, Logs: logs, Network: critest.InPod})
	if err != nil {
		t.Fatal(err)
	}
	web := p.Start("web", critest.Message{}.Num(4, 128<<20), "sh", "-c", "httpd -p 80 -h /www; trap 'exit 3' TERM; echo started; while :; do sleep 0.1; done")
	eventually(t, "the log has the output", func() bool {
		b, err := os.ReadFile(filepath.Join(logs, "web.log"))
		return err == nil && strings.Contains(string(b), "stdout F started")
	})
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	if out, exit := p.Exec(web, "cat", "/proc/sys/kernel/osrelease"); exit != 0 || strings.TrimSpace(out) == unix.ByteSliceToString(host.Release[:]) {
		t.Errorf("kernel %q, exit %d", out, exit)
	}
	if _, exit := p.Exec(web, "sh", "-c", "exit 9"); exit != 9 {
		t.Errorf("exit status of exec: %d, want 9", exit)
	}
	ip := p.Call("PodSandboxStatus", critest.Message{}.Str(1, p.ID)).Sub(1).Sub(5).Str(1)
	eventually(t, "the page is served at the pod's address "+ip, func() bool {
		r, err := http.Get("http://" + ip + "/")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return err == nil && strings.TrimSpace(string(b)) == "served"
	})
	if out, _ := p.Exec(web, "cat", "/sys/fs/cgroup/memory.max"); out != "134217728\n" {
		t.Errorf("web's limit of memory: %q", out)
	}

	// As the kubelet asks by default: with a PID namespace of its own.
	linux := critest.Message{}.Msg(2, critest.Message{}.Msg(3, critest.Message{}.Num(2, critest.InContainer)))
	side := p.StartAs("side", linux, "sh", "-c", "echo side >/name; exec sleep 1000")
	eventually(t, "the second container has the first one's page by loopback", func() bool {
		out, exit := p.Exec(side, "wget", "-q", "-O", "-", "http://127.0.0.1/")
		return exit == 0 && strings.TrimSpace(out) == "served"
	})
	if out, _ := p.Exec(side, "sh", "-c", "cat /name /proc/1/comm; hostname; uname -r"); !strings.HasPrefix(out, "side\nsleep\n") {
		t.Errorf("the second container: %q", out)
	}
	if out, exit := p.Exec(web, "cat", "/name"); exit == 0 {
		t.Errorf("the first container has the second one's files: %q", out)
	}
	p.Call("StopContainer", critest.Message{}.Str(1, side))
	if state, exit := p.Status(side); state != critest.Exited || exit != 137 {
		t.Errorf("state %d, exit status %d; want exited, killed", state, exit)
	}
	p.Call("RemoveContainer", critest.Message{}.Str(1, side))
	once := p.StartAs("once", linux, "sh", "-c", "wget -q -O - http://127.0.0.1/; exit 7")
	eventually(t, "the one that ends has ended", func() bool { state, _ := p.Status(once); return state == critest.Exited })
	if _, exit := p.Status(once); exit != 7 {
		t.Errorf("exit status %d, want 7", exit)
	}
	if _, exit := p.Exec(web, "sh", "-c", "exit 9"); exit != 9 {
		t.Errorf("exec in the first one, after the others' ends: %d, want 9", exit)
	}
	p.Call("RemoveContainer", critest.Message{}.Str(1, once))
	p.Call("StopContainer", critest.Message{}.Str(1, web).Num(2, 20))
	if state, exit := p.Status(web); state != critest.Exited || exit != 3 {
		t.Errorf("state %d, exit status %d; want exited by its own hand with 3", state, exit)
	}
	p.Call("RemoveContainer", critest.Message{}.Str(1, web))
	last := p.StartAs("last", linux, "sleep", "1000")
	p.Call("StopPodSandbox", critest.Message{}.Str(1, p.ID))
	if state, exit := p.Status(last); state != critest.Exited || exit != 137 {
		t.Errorf("a container whose pod was stopped: state %d, exit status %d", state, exit)
	}
	p.Call("RemovePodSandbox", critest.Message{}.Str(1, p.ID))
	if out := d.ok("containers", "ls", "-q"); out != "" {
		t.Errorf("left: %s", out)
	}
}
