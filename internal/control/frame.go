package control

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Frame types; doc.go has the table.
const (
	FrameStdin byte = iota
	FrameStdout
	FrameStderr
	FrameResize
	FrameSignal
	FrameStdinClose
	FrameDetach
	FrameCredit
	FrameExit
	FrameError
	FrameAlive
	numFrames
)

const (
	// Protocol is the name the connection is upgraded to.
	Protocol = "hvctl-stream/1"
	// StdinWindow is how many bytes of standard input may be on the way.
	StdinWindow = 256 << 10
	// StallTimeout is how long a client may neither read nor say that it is
	// alive before it is dropped, so that one that hangs cannot hold up a
	// workload for ever. A living one whose reader pauses (`... | less`) may,
	// as on any pipe.
	StallTimeout = 30 * time.Second
	// aliveEvery is how often a client says so while it cannot write.
	aliveEvery = StallTimeout / 4

	maxPayload  = 64 << 10
	headerLen   = 5
	outputPiece = 32 << 10 // of stdout and stderr in one frame
)

// appendFrame appends one frame to b. The payload must not exceed maxPayload.
func appendFrame(b []byte, typ byte, payload []byte) []byte {
	b = append(b, typ)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// readFrame reads one frame into *buf, which it grows to maxPayload at most.
// io.EOF means that the stream ended between two frames.
func readFrame(r *bufio.Reader, buf *[]byte) (typ byte, payload []byte, err error) {
	var h [headerLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: cut off in a frame header", ErrProtocol)
		}
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(h[1:])
	if h[0] >= numFrames {
		return 0, nil, fmt.Errorf("%w: frame type %d is unknown", ErrProtocol, h[0])
	}
	if n > maxPayload {
		return 0, nil, fmt.Errorf("%w: frame of %d bytes, at most %d are allowed", ErrProtocol, n, maxPayload)
	}
	if cap(*buf) < int(n) {
		*buf = make([]byte, n)
	}
	p := (*buf)[:n]
	if _, err := io.ReadFull(r, p); err != nil {
		return 0, nil, fmt.Errorf("%w: cut off in a frame: %w", ErrProtocol, err)
	}
	return h[0], p, nil
}
