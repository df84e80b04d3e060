// Package control is how anybody talks to the owner of one instance: HTTP and
// JSON over the unix socket in the instance's directory (docs/control-api.yaml
// describes it), and framed streams for what processes read and write.
//
// The owner serves (Server, Peer), the command line asks (Client, Stream).
// Only root and the user the owner runs as may connect; the kernel tells who
// is there (SO_PEERCRED). Requests are bounded in size, number and time.
//
// # Streams
//
// POST /v1/attach and POST /v1/exec upgrade the connection to hvctl-stream/1.
// After the 101 response, and at once on a socket that was handed over at
// start, both sides send frames: one byte of type, four bytes of payload
// length in network order, payload (at most 64 KiB).
//
//	client → owner                         owner → client
//	0 stdin        bytes                   1 stdout   bytes
//	3 resize       columns, rows uint16    2 stderr   bytes
//	4 signal       number uint8            7 credit   uint32
//	5 stdin-close  -                       8 exit     JSON workload.Exit
//	6 detach       -                       9 error    JSON ErrorBody
//	10 alive       -
//
// A client may have at most StdinWindow bytes of standard input on the way;
// each credit frame gives that many back. So the owner never has to choose
// between unbounded memory and being deaf to resize and detach while the
// process does not read. A client that cannot pass output on sends alive now
// and then; one that neither reads nor does so for StallTimeout is dropped.
// Exit or error is the last frame; then the owner
// closes. A client that closes without detach frame has gone away.
package control
