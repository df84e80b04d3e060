// Package agent is the host's side of the conversation with a guest's init
// (cmd/hvinit): it starts the workload, runs further processes in it, carries
// their standard streams, and reports how they ended.
//
// A Session works on whatever Transport hands it connections that the guest
// opened: the VMM passes those of its vsock device, tests pass unix sockets.
//
// Everything the guest says is hostile. Control messages are bounded in size
// (guestproto.MaxMessage); only answers to questions that were asked, and the
// three known notifications, get past the filter in channel.go, one at a time,
// so that a flood costs the guest its own time and no memory here; every value
// is validated before it is used; exits of unknown processes and second exits
// are counted and dropped; stream tokens are compared in constant time and
// accepted once; text for the log is cleaned and rate-limited.
package agent
