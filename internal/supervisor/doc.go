// Package supervisor is the life of the one process that owns an instance:
// the VMM of a microVM, the monitor of a container. It takes the instance's
// lock, starts the backend's workload.Runtime, answers on the control socket,
// carries the processes' input and output, records the end and cleans up.
//
// The order at the end is a promise to whoever waits: the runtime is closed,
// the exit is in state.json (or the directory is gone, with AutoRemove), the
// lock is free, and only then are waiters and attached clients told. So after
// `hvctl run --rm --name x` returns, the name x is free.
//
// What the process is started with is in package instance (Handover); the
// other end of that is package launch. This package is linked into the VMM
// process, whose memory is counted: it imports little.
package supervisor
