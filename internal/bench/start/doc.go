// Package start measures how fast OCI runtimes start containers: the four
// verbs of an engine (create, start, wait, delete), run, and exec, of /bin/true
// from a bundle with busybox; wall and processor time, and memory. Runtimes
// are programs with runc's command line.
//
// Iterations are interleaved (A B B A ...), none is dropped, and every figure
// is kept. See docs/bench-method.md.
package start
