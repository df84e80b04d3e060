// Package critest is for tests of container engines: it speaks the Kubernetes
// container runtime interface, as the kubelet does, and has an image to run.
package critest
