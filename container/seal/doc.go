// Package seal gives the running program's own binary in a form that nobody
// can write to, to execute it where somebody hostile can reach it through
// /proc/PID/exe.
//
// The cheap form is the file seen through a read-only overlay that is mounted
// nowhere: its inode is the overlay's, and an overlay without an upper layer
// can never be made writable. Where that is not possible it is a copy in a
// sealed memfd.
package seal
