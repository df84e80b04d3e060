package handoff

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of one message.
const (
	maxMessage = 64 << 10
	maxFiles   = 128 // the kernel's is 253
)

// ErrProtocol is wrapped when the other process says what it may not.
var ErrProtocol = errors.New("hand-over protocol violated")

// message is one datagram. The types are in the table of section 10.
type message struct {
	Type        string          `json:"type"`
	Version     int             `json:"version,omitempty"`     // of OFFER
	Description json.RawMessage `json:"description,omitempty"` // of OFFER
	Names       []string        `json:"names,omitempty"`       // of the files that come with it
	Text        string          `json:"text,omitempty"`        // of FAILED and NOTE
}

// Link is one end of the connection between the two processes.
type Link struct{ c *net.UnixConn }

// Pair makes the two ends of a connection.
func Pair() (here, there *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link"), nil
}

// NewLink speaks on f, of Pair, which stays the caller's.
func NewLink(f *os.File) (*Link, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("%w: the link is no unix socket", ErrProtocol)
	}
	return &Link{u}, nil
}

// Close ends this end.
func (l *Link) Close() { _ = l.c.Close() }

// send writes one message. The files stay the caller's.
func (l *Link) send(m message, files ...*os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxMessage || len(files) > maxFiles {
		return fmt.Errorf("%w: message %s of %d bytes and %d files", ErrProtocol, m.Type, len(b), len(files))
	}
	var fds []int
	for _, f := range files {
		raw, err := f.SyscallConn() // Fd would make it blocking
		if err == nil {
			err = raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
		}
		if err != nil {
			return fmt.Errorf("hand over %s: %w", f.Name(), err)
		}
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err = l.c.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("the other process: %w", err)
	}
	return nil
}

// receive reads one message; its files are the caller's. io.EOF says that the
// other process is gone, or has closed its end. within 0 is for ever.
func (l *Link) receive(within time.Duration) (m message, files []*os.File, err error) {
	var at time.Time
	if within > 0 {
		at = time.Now().Add(within)
	}
	if err := l.c.SetReadDeadline(at); err != nil {
		return m, nil, err
	}
	b, oob := make([]byte, maxMessage+1), make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := l.c.ReadMsgUnix(b, oob)
	files, ferr := rights(oob[:oobn])
	defer func() {
		if err != nil {
			closeFiles(files)
			files = nil
		}
	}()
	switch {
	case errors.Is(err, unix.ECONNRESET), err == nil && n == 0:
		return m, files, io.EOF
	case err != nil:
		return m, files, err
	case ferr != nil:
		return m, files, fmt.Errorf("%w: descriptors: %w", ErrProtocol, ferr)
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return m, files, fmt.Errorf("%w: a message is too long", ErrProtocol)
	}
	d := json.NewDecoder(bytes.NewReader(b[:n]))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, files, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if len(m.Names) != len(files) {
		return m, files, fmt.Errorf("%w: %s names %d files and brings %d", ErrProtocol, m.Type, len(m.Names), len(files))
	}
	return m, files, nil
}

// rights takes the descriptors out of control messages.
func rights(oob []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "handed over"))
		}
	}
	return files, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// Tell sends a word of the owners' own after the hand-over, on the same link.
func Tell(f *os.File, text string) error {
	l, err := NewLink(f)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.send(message{Type: "note", Text: text[:min(len(text), 4096)]})
}

// Lend sends open files, which stay the caller's, too.
func Lend(f *os.File, files ...*os.File) error {
	l, err := NewLink(f)
	if err != nil {
		return err
	}
	defer l.Close()
	names := make([]string, len(files))
	return l.send(message{Type: "note", Names: names}, files...)
}

// Borrow waits for n files that Lend sends, which are the caller's.
func Borrow(f *os.File, n int, within time.Duration) ([]*os.File, error) {
	l, err := NewLink(f)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	m, files, err := l.receive(within)
	if err == nil && (m.Type != "note" || len(files) != n) {
		err = unexpected(m)
	}
	if err != nil {
		closeFiles(files)
		return nil, err
	}
	return files, nil
}

// Ask tells the other end something and returns what it says to that, by Lend, or
// by Tell: then that is why there is nothing.
func Ask(f *os.File, text string, within time.Duration) ([]*os.File, error) {
	l, err := NewLink(f)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	if err := l.send(message{Type: "note", Text: text}); err != nil {
		return nil, err
	}
	m, files, err := l.receive(within)
	switch {
	case err != nil:
	case m.Type != "note":
		err = unexpected(m)
	case m.Text != "":
		err = errors.New(m.Text)
	}
	if err != nil {
		closeFiles(files)
		return nil, err
	}
	return files, nil
}

// Hear waits for what Tell sends. io.EOF says that the other process is gone;
// within 0 is for ever.
func Hear(f *os.File, within time.Duration) (string, error) {
	l, err := NewLink(f)
	if err != nil {
		return "", err
	}
	defer l.Close()
	m, files, err := l.receive(within)
	closeFiles(files)
	if err == nil && m.Type != "note" {
		err = unexpected(m)
	}
	return m.Text, err
}
