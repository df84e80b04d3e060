// Package swrk drives CRIU: it finds it, asks whether it works on this kernel,
// and speaks its RPC protocol with a child of ours (`criu swrk`). The messages
// are go-criu's. The loop is our own: go-criu's neither receives the terminals
// that CRIU hands over with a message, nor lets its caller say where the child
// is to run.
//
// CRIU is a program of the host and trusted as much as the runtime itself; what
// it answers is bounded all the same.
package swrk
