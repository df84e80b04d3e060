package fs

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
)

// Of the protocol (include/uapi/linux/fuse.h) this package needs the two
// headers and the operations that it treats in a special way.
const (
	inHeaderSize  = 40 // struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, extensions
	outHeaderSize = 16 // struct fuse_out_header: len, error, unique
	writeInSize   = inHeaderSize + 40
	readOutSize   = outHeaderSize

	opRead    = 15
	opWrite   = 16
	opInit    = 26
	opDestroy = 38

	fuseMajor, oldestMinor = 7, 12
)

// Bounds on what is copied for one request: the longest honest one is an
// extended attribute of 64 KiB with its name, the longest answer beside data a
// directory listing.
const (
	maxRequest = 128 << 10
	maxAnswer  = 128 << 10
)

// HandleQueue serves requests in the order they came.
func (d *Device) HandleQueue(_ context.Context, q *virtio.Queue) error {
	for {
		c, ok, err := q.Pop()
		if !ok || err != nil {
			return err
		}
		if c.Readable.Len() < inHeaderSize {
			return virtio.GuestErrorf("a file system request of %d bytes", c.Readable.Len())
		}
		if err := q.Push(c, uint32(d.serve(c.Readable, c.Writable))); err != nil {
			return err
		}
	}
}

// serve does one request and returns how long the answer is.
func (d *Device) serve(in, out memory.Vec) int {
	d.metrics.Requests.Add(1)
	var head [writeInSize]byte
	n := in.CopyOut(head[:])
	op, unique := binary.LittleEndian.Uint32(head[4:]), binary.LittleEndian.Uint64(head[8:])

	var request [][]byte
	switch {
	case op == opWrite && n == writeInSize:
		_, data := in.Split(writeInSize)
		if data.Len() > maxData {
			return d.refuse(out, unique, fuse.EINVAL)
		}
		request = append([][]byte{head[:]}, data.Buffers()...)
		d.metrics.Written.Add(uint64(data.Len()))
	case in.Len() > maxRequest:
		return d.refuse(out, unique, fuse.EINVAL)
	default:
		request = [][]byte{make([]byte, in.Len())}
		copy(request[0], head[:n])
		in.Drop(n).CopyOut(request[0][n:])
	}
	switch op {
	case opInit:
		return d.initialize(request, out, unique)
	case opRead:
		return d.read(request, out, unique)
	case opDestroy:
		d.mu.Lock()
		d.init, d.answer = nil, nil
		d.mu.Unlock()
	}
	return d.call(request, out, unique)
}

// call does a request whose answer is made in a buffer of ours and copied.
func (d *Device) call(request [][]byte, out memory.Vec, unique uint64) int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.handle(request, out, unique)
}

func (d *Device) handle(request [][]byte, out memory.Vec, unique uint64) int {
	answer := make([]byte, min(out.Len(), maxAnswer))
	n, code := d.session.HandleRequest(request, [][]byte{answer})
	if code != fuse.OK {
		return d.refuse(out, unique, code)
	}
	d.count(answer[:n])
	return out.CopyIn(answer[:n])
}

// read does a request whose data goes straight into the guest's memory.
func (d *Device) read(request [][]byte, out memory.Vec, unique uint64) int {
	if out.Len() < readOutSize || out.Len() > readOutSize+maxData {
		return d.refuse(out, unique, fuse.EINVAL)
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	n, code := d.session.HandleRequest(request, out.Buffers())
	if code != fuse.OK {
		return d.refuse(out, unique, code)
	}
	d.metrics.ReadBytes.Add(uint64(max(n-readOutSize, 0)))
	return n
}

// initialize begins a session (FUSE_INIT). What an old or a wrong client asks
// for is refused here: the library would write a line each time.
func (d *Device) initialize(request [][]byte, out memory.Vec, unique uint64) int {
	if !goodInit(request[0]) {
		return d.refuse(out, unique, fuse.EIO)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	answer, code := d.answerInit(request[0])
	if code != fuse.OK {
		return d.refuse(out, unique, code)
	}
	d.init, d.answer = request[0], answer
	d.count(answer)
	return out.CopyIn(answer)
}

// maxInit bounds a FUSE_INIT, which is saved.
const maxInit = 512

func goodInit(request []byte) bool {
	if len(request) < inHeaderSize+8 || len(request) > maxInit {
		return false
	}
	body := request[inHeaderSize:]
	return binary.LittleEndian.Uint32(request[4:]) == opInit && binary.LittleEndian.Uint32(body) == fuseMajor && binary.LittleEndian.Uint32(body[4:]) >= oldestMinor
}

// answerInit begins the session. mu is held.
func (d *Device) answerInit(request []byte) ([]byte, fuse.Status) {
	answer := make([]byte, maxInit)
	n, code := d.session.HandleRequest([][]byte{bytes.Clone(request)}, [][]byte{answer})
	return answer[:n], code
}

func (d *Device) count(answer []byte) {
	if len(answer) >= outHeaderSize && binary.LittleEndian.Uint32(answer[4:]) != 0 {
		d.metrics.Errors.Add(1)
	}
}

// refuse answers with an error number alone, if the answer is wanted.
func (d *Device) refuse(out memory.Vec, unique uint64, code fuse.Status) int {
	d.metrics.Errors.Add(1)
	if out.Len() < outHeaderSize {
		return 0
	}
	var h [outHeaderSize]byte
	binary.LittleEndian.PutUint32(h[:], outHeaderSize)
	binary.LittleEndian.PutUint32(h[4:], uint32(-int32(code)))
	binary.LittleEndian.PutUint64(h[8:], unique)
	return out.CopyIn(h[:])
}
