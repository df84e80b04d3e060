package transport

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrToken is wrapped when a token does not open anything.
var ErrToken = errors.New("token not accepted")

// maxWrong is how many wrong tokens end the right one's life.
const maxWrong = 5

// Token opens one session, once, until it expires.
type Token struct {
	text  string
	until time.Time

	mu    sync.Mutex // guards what follows
	used  bool
	wrong int
}

// NewToken returns a token of 128 random bits that lives for ttl.
func NewToken(ttl time.Duration) *Token {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return &Token{text: hex.EncodeToString(b), until: time.Now().Add(ttl)}
}

// String returns what the sender needs to know.
func (t *Token) String() string { return t.text }

// Check accepts the token once. Errors wrap ErrToken.
func (t *Token) Check(text string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	right := subtle.ConstantTimeCompare([]byte(text), []byte(t.text)) == 1
	switch {
	case t.wrong >= maxWrong:
		return fmt.Errorf("%w: %d wrong ones came before; start the receiver anew", ErrToken, maxWrong)
	case !right:
		t.wrong++
		return fmt.Errorf("%w: it is not the one that the receiver printed", ErrToken)
	case time.Now().After(t.until):
		return fmt.Errorf("%w: it has expired", ErrToken)
	case t.used:
		return fmt.Errorf("%w: it was used before", ErrToken)
	}
	t.used = true
	return nil
}
