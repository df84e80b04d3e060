package migrate

import (
	"fmt"
	"io"
	"net"
	"time"
)

// receiveAll reads bytes from the first connection and returns their rate. The
// first tenth is not counted: TCP has to find its pace, and the token bucket
// begins full.
func receiveAll(l net.Listener, bytes int) (float64, error) {
	c, err := l.Accept()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	skip := int64(bytes / 10)
	if _, err := io.CopyN(io.Discard, c, skip); err != nil {
		return 0, err
	}
	begin := time.Now()
	n, err := io.CopyN(io.Discard, c, int64(bytes)-skip)
	if err != nil {
		return 0, fmt.Errorf("after %d bytes: %w", n, err)
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}
