// Package guestproto is the language that the guest's PID 1 (cmd/hvinit) and
// the host's agent client (internal/agent) speak: message types, limits,
// framing, and the validation of everything that comes from the guest.
//
// # Connections
//
// The guest dials out over vsock to the host (CID 2), so the host never polls
// for readiness. Port 1024 is the control connection: JSON-RPC 2.0 messages in
// length-prefixed frames, the guest is the server, and the guest also sends
// notifications (hello, exit, log). Port 1025 takes one connection per standard
// stream of a process; it opens with a 24-byte header that names the token the
// host chose for that stream, and carries nothing but the stream's bytes after
// that.
//
// # Trust
//
// The host is trusted by the guest; the guest is not trusted by the host. Each
// type that travels from guest to host has a Validate method, and the host
// calls it before looking at any other field. docs/adr/0004-agent-protocol.md
// gives the reasons behind the choices.
//
// The package is linked into the guest's init, which is unpacked on every boot:
// it imports encoding/json and little else, and must stay that way.
package guestproto
