package qcow2

import (
	"compress/flate"
	"errors"
	"io"
)

// inflate is a reader of what qcow2 calls zlib: deflate without a header.
func inflate(r io.Reader) io.ReadCloser { return whole{flate.NewReader(r)} }

// whole is a reader whose reads end early only with the stream.
type whole struct{ io.ReadCloser }

func (w whole) Read(p []byte) (int, error) {
	n, err := io.ReadFull(w.ReadCloser, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
