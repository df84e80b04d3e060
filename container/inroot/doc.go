// Package inroot works inside a directory tree that somebody hostile may be
// rearranging: a container's root file system while it is being set up.
//
// Every name is resolved by the kernel below an open descriptor of the root
// (openat2(2), RESOLVE_IN_ROOT), so that neither ".." nor a symbolic link,
// even one exchanged meanwhile, leads outside. What is found is used through
// the descriptor that was found, never by name again.
//
// It also has a /proc of its own (Proc), which nothing in the container's
// mount namespace can cover or redirect: what must reach the kernel is written
// there.
package inroot
