// Package inside is what runs in the container of package ocivm: the owner of
// the VM, which is the container's first process, and the client that stands
// for a further process of the guest. Only cmd/hvctl-vmm imports it.
package inside
