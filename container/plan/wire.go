package plan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// SyncFD is the descriptor on which the stage finds its plan and answers.
const SyncFD = 3

// Messages of the stage and the runtime, one byte each and then, framed as
// everything else, what goes with it.
const (
	Ready    = 'R' // stage: set up, waiting to be started
	Hooks    = 'H' // stage: run the runtime's hooks now
	Continue = 'C' // runtime: they are done
	Failed   = 'F' // stage: the text says why; nothing follows
	Go       = 'G' // start: run the program
	Ping     = 'P' // start: are you waiting? answered by Ready
)

// maxMessage bounds a message's text.
const maxMessage = 16 << 10

// WritePlan writes b, an encoded plan, with its length in front, in one write.
func WritePlan(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.LittleEndian.AppendUint32(make([]byte, 0, len(b)+4), uint32(len(b))), b...))
	return err
}

// ReadPlan reads and decodes what WritePlan wrote.
func ReadPlan(r io.Reader) (*Plan, error) {
	b, err := readFrame(r, MaxSize)
	if err != nil {
		return nil, err
	}
	return Decode(b)
}

// Send writes a message.
func Send(w io.Writer, kind byte, text string) error {
	text = text[:min(len(text), maxMessage-1)]
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(text)+1))
	_, err := w.Write(append(append(b, kind), text...))
	return err
}

// Receive reads a message. io.EOF means that the other side closed, between
// messages.
func Receive(r io.Reader) (kind byte, text string, err error) {
	b, err := readFrame(r, maxMessage)
	if err != nil {
		return 0, "", err
	}
	if len(b) == 0 {
		return 0, "", fmt.Errorf("%w: empty message", ErrMalformed)
	}
	return b[0], string(b[1:]), nil
}

func readFrame(r io.Reader, limit uint32) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > limit {
		return nil, fmt.Errorf("%w: %d bytes announced, %d allowed", ErrMalformed, n, limit)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}
