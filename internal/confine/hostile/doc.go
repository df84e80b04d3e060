// Package hostile is what somebody would try who executes code of his own in a
// process of ours: reach the host's files, its network, other processes, the
// kernel. Tests run it in a process that is confined, and for comparison in one
// that is not; nothing but tests may import it, and it does nothing harmful where
// it succeeds.
package hostile
