package instance

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// LogFile is the newest log file's name; older ones end in .1, .2 ...
const LogFile = "log.jsonl"

const (
	defaultLogBytes = 10 << 20
	defaultLogFiles = 3
)

// Stream names in the log.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// LogWriter keeps the output of the first process, bounded in size. Each
// Append is one line of JSON:
//
//	{"t":"2026-01-02T15:04:05.000000001Z","s":"stdout","d":"text\n"}
//
// with "b" (base64) in place of "d" where the bytes are not valid UTF-8. A
// line holds a piece of output as it came, not a line of it.
type LogWriter struct {
	dir      string
	maxBytes int64
	files    int

	mu   sync.Mutex
	f    *os.File // nil: off or closed
	size int64
	buf  []byte
}

// OpenLog opens the instance's log for appending. Only the owner calls it.
func (i *Instance) OpenLog() (*LogWriter, error) {
	o := i.config.Log
	w := &LogWriter{dir: i.dir, maxBytes: o.MaxBytes, files: o.Files}
	if w.maxBytes <= 0 {
		w.maxBytes = defaultLogBytes
	}
	if w.files <= 0 {
		w.files = defaultLogFiles
	}
	if o.Off {
		return w, nil
	}
	return w, w.open()
}

func (w *LogWriter) open() error {
	f, err := os.OpenFile(filepath.Join(w.dir, LogFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	w.f, w.size = f, st.Size()
	return nil
}

// Append records p, which it does not keep. An error means that this piece,
// and maybe later ones, are lost to the log.
func (w *LogWriter) Append(t time.Time, stream string, p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil || len(p) == 0 {
		return nil
	}
	w.buf = appendEntry(w.buf[:0], t, stream, p)
	if w.size > 0 && w.size+int64(len(w.buf)) > w.maxBytes {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	n, err := w.f.Write(w.buf)
	if err != nil && n > 0 {
		// Half a line, for the disk is full: what comes when it no longer is
		// must not continue it.
		if terr := w.f.Truncate(w.size); terr == nil {
			n = 0
		}
	}
	w.size += int64(n)
	return err
}

func (w *LogWriter) rotate() error {
	base := filepath.Join(w.dir, LogFile)
	for n := w.files - 1; n > 0; n-- {
		from := base
		if n > 1 {
			from += "." + strconv.Itoa(n-1)
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", base, n)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if w.files == 1 {
		if err := os.Remove(base); err != nil {
			return err
		}
	}
	w.f.Close()
	w.f = nil
	return w.open()
}

// Close ends the log. Later appends do nothing.
func (w *LogWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return nil
	}
	err := w.f.Close()
	w.f = nil
	return err
}

// EncodeEntry is e as a line of the log.
func EncodeEntry(e Entry) []byte { return appendEntry(nil, e.Time, e.Stream, e.Data()) }

func appendEntry(b []byte, t time.Time, stream string, p []byte) []byte {
	b = append(b, `{"t":"`...)
	b = t.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","s":"`...)
	b = append(b, stream...)
	if utf8.Valid(p) {
		b = append(b, `","d":"`...)
		b = appendJSONText(b, p)
	} else {
		b = append(b, `","b":"`...)
		b = base64.StdEncoding.AppendEncode(b, p)
	}
	return append(b, "\"}\n"...)
}

// appendJSONText escapes valid UTF-8 for a JSON string (RFC 8259 §7).
func appendJSONText(b, p []byte) []byte {
	const hex = "0123456789abcdef"
	start := 0
	for i, c := range p {
		if c >= 0x20 && c != '"' && c != '\\' && c != 0x7f {
			continue
		}
		b = append(b, p[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(b, p[start:]...)
}
