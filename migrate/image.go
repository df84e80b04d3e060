package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/hvctl/hvctl/migrate/wire"
)

// MaxImage bounds an image that is carried along, in bytes.
const MaxImage = 16 << 30

// imageFrame is how much of an image one frame carries at most, in bytes.
const imageFrame = 256 << 10

// ImageOffer is an image that a source wants to carry along. All of it comes from
// the source.
type ImageOffer struct {
	Peer   string
	Size   uint64
	SHA256 string // of all its bytes: 64 lower-case hexadecimal digits
}

// ImageSink takes in an image. Its Writer gets Size bytes at most. Keep is called when
// all have come and their sum is right, and returns the name by which the machine's
// description may call it; Discard when it comes to nothing.
type ImageSink interface {
	io.Writer
	Keep() (name string, err error)
	Discard()
}

// imageInfo is the payload of IMAGE, and stored that of STORED.
type imageInfo struct {
	Size   uint64 `json:"size"`
	SHA256 string `json:"sha256"`
}

type stored struct {
	Name string `json:"name"`
}

func (i imageInfo) check() error {
	switch b, err := hex.DecodeString(i.SHA256); {
	case i.Size == 0 || i.Size > MaxImage:
		return fmt.Errorf("an image of %d bytes, at most %d GiB are taken", i.Size, MaxImage>>30)
	case err != nil || len(b) != sha256.Size || strings.ToLower(i.SHA256) != i.SHA256:
		return errors.New("its SHA-256 is no 64 lower-case hexadecimal digits")
	}
	return nil
}

// SendImage carries an image to the destination, before anything is offered, and
// returns the name that it has there. sum is its SHA-256. sent is 0 when the
// destination has it already. It has no effect on the guest. Of o it needs VM, Rate and times.
func SendImage(ctx context.Context, dial Dial, image io.ReaderAt, size uint64, sum [sha256.Size]byte, o SendOptions) (name string, sent uint64, err error) {
	o = o.withDefaults()
	h := hello{Min: minVersion, Max: ProtocolVersion, Role: roleImage, Session: newSessionID(), VM: o.VM, Build: o.Build}
	d := &dialer{dial: dial, hello: h, epoch: 1, o: o}
	c, _, _, err := d.greet(ctx, 0, h)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	if err := sendJSON(c, wire.Image, imageInfo{size, hex.EncodeToString(sum[:])}); err != nil {
		return "", 0, err
	}
	t, p, err := c.Recv(o.Prepare)
	if err != nil {
		return "", 0, err
	}
	if t == wire.Prepared {
		if err := sendBlobs(ctx, c, image, size, &limiter{rate: o.Rate}); err != nil {
			// A destination that refuses in the middle has said why.
			if t, p, rerr := c.Recv(lastWords); rerr == nil && t == wire.Refuse {
				err = refusedBy(p)
			}
			return "", 0, err
		}
		sent = size
		if t, p, err = c.Recv(o.Prepare); err != nil {
			return "", 0, fmt.Errorf("wait for STORED: %w", err)
		}
	}
	switch t {
	case wire.Refuse:
		return "", 0, refusedBy(p)
	case wire.Stored:
	default:
		return "", 0, fmt.Errorf("%w: %v instead of STORED", ErrProtocol, t)
	}
	var s stored
	if err := decodeJSON(t, p, &s); err != nil {
		return "", 0, err
	}
	if s.Name == "" || len(s.Name) > 255 || strings.ContainsAny(s.Name, "/\x00") {
		return "", 0, fmt.Errorf("%w: %q is no file's name", ErrProtocol, printable(s.Name))
	}
	return s.Name, sent, nil
}

// SendImageFile is SendImage of the file at path.
func SendImageFile(ctx context.Context, dial Dial, path string, o SendOptions) (name string, sent uint64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	return SendOpenImage(ctx, dial, f, o)
}

// SendOpenImage is SendImageFile for an open file, whose offset stays.
func SendOpenImage(ctx context.Context, dial Dial, f *os.File, o SendOptions) (name string, sent uint64, err error) {
	h := sha256.New()
	size, err := io.Copy(h, until{ctx, io.NewSectionReader(f, 0, math.MaxInt64)})
	if err != nil {
		return "", 0, err
	}
	if name, sent, err = SendImage(ctx, dial, f, uint64(size), [sha256.Size]byte(h.Sum(nil)), o); err != nil {
		return "", 0, fmt.Errorf("carry the image along: %w", err)
	}
	return name, sent, nil
}

// until reads r until ctx ends.
type until struct {
	ctx context.Context
	r   io.Reader
}

func (u until) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(p)
}

func sendBlobs(ctx context.Context, c *wire.Conn, image io.ReaderAt, size uint64, l *limiter) error {
	buf := make([]byte, wire.HeaderSize+imageFrame)
	for at := uint64(0); at < size; {
		n := min(imageFrame, size-at)
		b := buf[:wire.HeaderSize+n]
		if _, err := image.ReadAt(b[wire.HeaderSize:], int64(at)); err != nil {
			return fmt.Errorf("read the image: %w", err)
		}
		if err := l.wait(ctx, len(b)); err != nil {
			return err
		}
		if err := c.SendInPlace(wire.Blob, b); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// image takes an image in. Meanwhile no session begins.
func (r *Receiver) image(ctx context.Context, c *wire.Conn, h hello) error {
	if r.o.Image == nil || r.o.Token != nil {
		return refuse("image", "no images are taken here")
	}
	r.mu.Lock()
	free := !r.busy && !r.full && r.session == nil
	r.busy = r.busy || free
	r.mu.Unlock()
	if !free {
		return refuse("busy", "another migration goes on here, or has come already")
	}
	have, err := r.takeOffered(ctx, c, h)
	r.mu.Lock()
	r.busy = false // before the source knows, which goes on with the next session at once
	r.mu.Unlock()
	if err != nil {
		return err
	}
	return sendJSON(c, wire.Stored, stored{have})
}

// takeOffered has the source say which image it has, and receives it unless it is here.
func (r *Receiver) takeOffered(ctx context.Context, c *wire.Conn, h hello) (name string, err error) {
	if err := sendJSON(c, wire.Welcome, welcome{Version: h.version()}); err != nil {
		return "", err
	}
	t, p, err := c.Recv(r.o.Stall)
	if err != nil {
		return "", err
	}
	if t != wire.Image {
		return "", refuse("protocol", "%v instead of IMAGE", t)
	}
	var info imageInfo
	if err := decodeJSON(t, p, &info); err != nil {
		return "", refuse("protocol", "%w", err)
	}
	if err := info.check(); err != nil {
		return "", refuse("image", "%w", err)
	}
	sink, have, err := r.o.Image(ctx, ImageOffer{Peer: peerOf(c.Conn), Size: info.Size, SHA256: info.SHA256})
	if err != nil {
		return "", refuse("image", "%w", err)
	}
	if sink == nil {
		return have, nil
	}
	if have, err = r.takeImage(c, info, sink); err != nil {
		sink.Discard()
	}
	return have, err
}

// takeImage receives the bytes and has them kept if they are what was offered.
func (r *Receiver) takeImage(c *wire.Conn, info imageInfo, sink ImageSink) (name string, err error) {
	if err := c.Send(wire.Prepared, nil); err != nil {
		return "", err
	}
	sum := sha256.New()
	for left := info.Size; left > 0; {
		t, p, err := c.Recv(r.o.Stall)
		switch {
		case err != nil:
			return "", err
		case t != wire.Blob || len(p) == 0 || uint64(len(p)) > left:
			return "", refuse("protocol", "%v of %d bytes where %d bytes of the image are missing", t, len(p), left)
		}
		_, _ = sum.Write(p) // never fails
		if _, err := sink.Write(p); err != nil {
			return "", refuse("image", "%w", err)
		}
		left -= uint64(len(p))
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != info.SHA256 {
		return "", refuse("image", "what has come is %s, not the %s that was offered", got, info.SHA256)
	}
	if name, err = sink.Keep(); err != nil {
		return "", refuse("image", "%w", err)
	}
	return name, nil
}
