// Package workload is the neutral description of what to run, and the neutral
// view of something running, that every backend (microVM, container, the
// in-memory fake) shares. What is true for one backend only lives in a
// sub-struct named after it, so that the two stay comparable.
//
// Three views of the same instance:
//
//   - Config is data: what was asked, with every default filled in.
//   - Runtime is held by the one process that owns the instance (the VMM, or
//     the container's monitor): it starts, signals and reaps.
//   - Backend and Instance are held by whoever drives it from outside (the
//     command line, the benchmark): they reach the owner through its control
//     socket.
package workload
