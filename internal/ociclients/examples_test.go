package ociclients

import (
	"os"
	"strings"
	"testing"
)

// example reads a file of examples/, with another runtime in place of the
// installed one.
func example(t *testing.T, name, runtime string) string {
	t.Helper()
	return exampleFor(t, name, "hvctl-oci", runtime)
}

// exampleFor is example for another of our programs.
func exampleFor(t *testing.T, name, program, runtime string) string {
	t.Helper()
	b, err := os.ReadFile("../../examples/" + name)
	if err != nil {
		t.Fatal(err)
	}
	installed := `"/usr/local/bin/` + program + `"`
	if strings.Count(string(b), installed) != 1 {
		t.Fatalf("examples/%s does not name %s once", name, installed)
	}
	return strings.Replace(string(b), installed, `"`+runtime+`"`, 1)
}

// handler is the name that the examples give to our runtime, vmHandler to the
// one that makes each container a VM.
const (
	handler   = "hvctl"
	vmHandler = "hvctl-vm"
)

// TestExamplesAgreeOnTheHandler: the RuntimeClass names the handler that the
// configuration of containerd has, and the pod the RuntimeClass.
func TestExamplesAgreeOnTheHandler(t *testing.T) {
	for name, want := range map[string]string{
		"containerd/config.toml":         ".containerd.runtimes." + handler + "]",
		"./containerd/config.toml":       ".containerd.runtimes." + vmHandler + "]",
		"./kubernetes/runtimeclass.yaml": "\nhandler: " + vmHandler + "\n",
		"kubernetes/runtimeclass.yaml":   "\nhandler: " + handler + "\n",
		"kubernetes/pod.yaml":            "\n  runtimeClassName: " + handler + "\n",
	} {
		b, err := os.ReadFile("../../examples/" + name)
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s does not have %q: %v", name, want, err)
		}
	}
}
