// Package cgroup puts a process tree under limits and tells what it used:
// cgroup v2, v1, and the hybrid of both, through the file system. Both
// backends use it, so the limits of a container and those of a VM's processes
// are the same limits, set by the same code.
//
//	g, err := cgroup.Create(cgroup.Options{Path: "/hvctl/0123", Resources: spec.Linux.Resources})
//	f, err := g.File()   // v2 and hybrid: for SysProcAttr.UseCgroupFD
//	err = g.Add(pid)     // v1 and hybrid: before the process does anything,
//	d, err := g.Doors(false) // or: it enters by itself, which is faster
//	...
//	err = g.Kill(ctx)
//	err = g.Delete(ctx)
//
// A group is one directory per hierarchy. [Group.Paths] is what a state file
// keeps of it, [Load] makes the group again from that.
//
// What OCI calls limits is turned into files and values by pure functions
// (plan_v1.go, plan_v2.go), which the tests hold against tables; writing them
// is separate (apply.go). A limit that cannot be had is an error that names
// the field and the controller, never silence; what the specification calls
// obsolete and lets a runtime ignore goes to Options.Warn.
//
// The package knows no policy: which devices are allowed, or where groups live,
// is said by its callers. Why it is our own and not a library is in
// docs/adr/0008-own-cgroup-layer.md. Interfaces are those of the kernel's
// Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/; the meaning of the
// limits is that of the OCI runtime specification 1.3, config-linux.md.
package cgroup
