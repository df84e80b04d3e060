// Package launch is the outside view of instances: it starts the owner
// process of one, and drives living ones through their control socket. The
// command line, the benchmark and the shared lifecycle suite use it; owners
// do not.
package launch
