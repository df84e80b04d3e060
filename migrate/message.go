package migrate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hvctl/hvctl/migrate/wire"
)

// ProtocolVersion is the version that this build speaks, with the one before
// it, if there is one.
const ProtocolVersion = 2

const minVersion = ProtocolVersion - 1

const (
	maxStreams     = 16
	maxDescription = 1 << 20 // bytes; the same as in snapshots
	maxRegions     = 64
	maxVolumes     = 64
	maxVolume      = 4 << 40 // bytes, of all disks together
)

// role says what a connection is for.
type role string

const (
	roleControl role = "control"
	roleData    role = "data"
	roleQuery   role = "query"
	roleFacts   role = "facts"
	roleImage   role = "image" // that the destination lacks
	rolePush    role = "push"  // post-copy: what is missing, in order
	roleFault   role = "fault" // and what somebody waits for
)

// hello is the payload of HELLO.
type hello struct {
	Min     uint32 `json:"min"`
	Max     uint32 `json:"max"`
	Role    role   `json:"role"`
	Session string `json:"session"`
	Stream  int    `json:"stream,omitempty"`
	Resume  bool   `json:"resume,omitempty"`
	Token   string `json:"token,omitempty"`
	VM      string `json:"vm,omitempty"`
	Build   string `json:"build,omitempty"`
}

// check judges a hello; the error's text is what the peer is told.
func (h hello) check() error {
	switch {
	case h.Min > ProtocolVersion || h.Max < minVersion || h.Max < h.Min:
		return fmt.Errorf("protocol versions %d to %d, this build speaks %d to %d", h.Min, h.Max, minVersion, ProtocolVersion)
	case !validSession(h.Session):
		return errors.New("a session is 32 lower-case hexadecimal digits")
	case h.Stream < 0 || h.Stream >= maxStreams:
		return fmt.Errorf("stream %d, at most %d are allowed", h.Stream, maxStreams)
	case len(h.VM) > 255 || len(h.Build) > 255:
		return errors.New("a name has more than 255 bytes")
	}
	return nil
}

// validSession reports whether s can be a session, and so a file's name.
func validSession(s string) bool {
	if len(s) != 32 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// version returns the version to speak with the peer, whose hello is checked.
func (h hello) version() uint32 { return min(h.Max, ProtocolVersion) }

// welcome is the payload of WELCOME.
type welcome struct {
	Version uint32   `json:"version"`
	Applied []uint64 `json:"applied,omitempty"` // per stream, when resuming
}

// refusal is the payload of REFUSE and of ABORT.
type refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// regionInfo is a region as OFFER names it.
type regionInfo struct {
	GPA  uint64 `json:"gpa"`
	Size uint64 `json:"size"`
}

// volumeInfo is a disk as OFFER names it.
type volumeInfo struct {
	Name string `json:"name"`
	Size uint64 `json:"size"`
}

// offer is the payload of OFFER.
type offer struct {
	Streams     int             `json:"streams"`
	Regions     []regionInfo    `json:"regions"`
	Volumes     []volumeInfo    `json:"volumes,omitempty"`
	Description json.RawMessage `json:"description"`
	Plan        json.RawMessage `json:"plan,omitempty"`
	PostCopy    bool            `json:"postcopy,omitempty"` // pages may follow after the hand-over
}

// check judges an offer's numbers. The regions are judged by whoever builds the
// machine.
func (o offer) check() error {
	if o.Streams < 1 || o.Streams > maxStreams || len(o.Regions)+len(o.Volumes) < 1 || len(o.Regions) > maxRegions ||
		len(o.Volumes) > maxVolumes || len(o.Description) > maxDescription {
		return fmt.Errorf("%d streams, %d regions, %d volumes, description of %d bytes: out of bounds", o.Streams, len(o.Regions), len(o.Volumes), len(o.Description))
	}
	left := uint64(maxVolume)
	for _, v := range o.Volumes {
		if v.Size == 0 || v.Size > left || len(v.Name) == 0 || len(v.Name) > 255 {
			return fmt.Errorf("volume %q of %d bytes: empty, or the disks have more than %d TiB together", printable(v.Name), v.Size, maxVolume>>40)
		}
		left -= v.Size
	}
	return nil
}

// prepared is the payload of PREPARED: what the destination knows by then of the
// hand-over. All zero, which is also what an empty payload says, is not known.
type prepared struct {
	handover time.Duration // to load the state and to write the record down
	state    uint64        // about the size of the state, in bytes
}

func (p prepared) encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(p.handover))
	return binary.LittleEndian.AppendUint64(b, p.state)
}

// decodePrepared bounds what the destination claims.
func decodePrepared(payload []byte) (p prepared, err error) {
	if len(payload) == 0 {
		return p, nil
	}
	c := wire.NewCursor(payload)
	handover := c.Uint64("time")
	p.state = min(c.Uint64("size"), wire.MaxState)
	p.handover = time.Duration(min(handover, uint64(time.Minute)))
	if c.Done(); c.Err() != nil {
		return prepared{}, fmt.Errorf("%w: PREPARED: %w", ErrProtocol, c.Err())
	}
	return p, nil
}

// decodeJSON is strict: unknown fields and bytes after the value are errors,
// which wrap ErrProtocol.
func decodeJSON(t wire.Type, b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %v: %w", ErrProtocol, t, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %v: bytes after the value", ErrProtocol, t)
	}
	return nil
}

// codeStream is the code of a refusal of a data connection.
const codeStream = "stream"

// refusedError is a REFUSE of the destination.
type refusedError struct{ code, message string }

func (e refusedError) Error() string {
	return fmt.Sprintf("%v by the destination (%s): %s", ErrRefused, e.code, e.message)
}

// Is makes it an ErrRefused.
func (e refusedError) Is(target error) bool { return target == ErrRefused }

// refusedBy turns a REFUSE into an error.
func refusedBy(payload []byte) error {
	var r refusal
	if err := decodeJSON(wire.Refuse, payload, &r); err != nil {
		return err
	}
	return refusedError{printable(r.Code), printable(r.Message)}
}

// printable makes a peer's words fit for a terminal and a log.
func printable(s string) string {
	if len(s) > 500 {
		s = s[:500]
	}
	b := []rune(s)
	for i, r := range b {
		if r < ' ' || r == 0x7f {
			b[i] = ' '
		}
	}
	return string(b)
}

func sendJSON(c *wire.Conn, t wire.Type, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Send(t, b)
}
