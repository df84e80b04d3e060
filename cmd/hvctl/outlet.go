package main

import (
	"io"
	"sync/atomic"
)

// outlet is a command's standard output. It remembers that something of it was lost,
// which few who print ask for; any goroutine may write to it.
type outlet struct {
	w    io.Writer
	lost atomic.Pointer[error] // the first error; nil: none
}

// Write implements io.Writer.
func (o *outlet) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		o.lost.CompareAndSwap(nil, &err)
	}
	return n, err
}

// Fd is the file descriptor written to, for questions about a terminal; one that no
// file has, if it is none.
func (o *outlet) Fd() uintptr {
	if f, ok := o.w.(interface{ Fd() uintptr }); ok {
		return f.Fd()
	}
	return ^uintptr(0)
}
