// Package proctable reads the kernel's table of processes for `hvctl top`: of a
// container on the host, and in a VM's guest (cmd/hvinit, which links this and
// so keeps it small). Numbers are those that the processes themselves see.
package proctable
