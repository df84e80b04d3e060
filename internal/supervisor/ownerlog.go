package supervisor

import (
	"io"
	"os"
	"sync"
)

// maxOwnerLog bounds owner.log in bytes. Each line a guest can cause is limited
// in rate, but an instance may live for years.
const maxOwnerLog = 1 << 20

// boundedLog writes to a file that others may append to as well. When it is
// full, the younger half goes: how things began stays, and so does what comes
// from now on. Something that is no regular file is not bounded.
type boundedLog struct {
	f   *os.File
	max int64

	mu sync.Mutex
}

// Write implements io.Writer.
func (b *boundedLog) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st, err := b.f.Stat()
	if err == nil && st.Mode().IsRegular() && st.Size()+int64(len(p)) > b.max {
		if err := b.f.Truncate(b.max / 2); err != nil {
			return 0, err // rather no line than a full disk
		}
		if _, err := io.WriteString(b.f, "\n[lines that were here have been dropped]\n"); err != nil {
			return 0, err
		}
	}
	return b.f.Write(p)
}
