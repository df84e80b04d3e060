package migrate_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hvctl/hvctl/migrate"
	"github.com/hvctl/hvctl/migrate/wire"
)

// shelf takes images in.
type shelf struct {
	mu        sync.Mutex // guards what follows
	kept      map[string][]byte
	discarded int
}

type shelved struct {
	bytes.Buffer
	s    *shelf
	name string
}

func (i *shelved) Keep() (string, error) {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.kept[i.name] = i.Bytes()
	return i.name, nil
}

func (i *shelved) Discard() {
	i.s.mu.Lock()
	defer i.s.mu.Unlock()
	i.s.discarded++
}

func (s *shelf) take(_ context.Context, o migrate.ImageOffer) (migrate.ImageSink, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := o.SHA256 + ".image"
	if o.Size > 4<<20 {
		return nil, "", errors.New("no room for that")
	}
	if s.kept[name] != nil {
		return nil, name, nil
	}
	return &shelved{s: s, name: name}, "", nil
}

func withShelf(t *testing.T) (*rig, *shelf) {
	t.Helper()
	s := &shelf{kept: map[string][]byte{}}
	return newRig(t, func(r *rig) { quick(r); r.receive.Image = s.take }), s
}

func TestAnImageIsCarriedOnce(t *testing.T) {
	r, s := withShelf(t)
	image := make([]byte, 3<<20+17)
	for i := range image {
		image[i] = byte(rand.Uint32())
	}
	send := func(sum [sha256.Size]byte) (string, uint64, error) {
		return migrate.SendImage(t.Context(), r.dial, bytes.NewReader(image), uint64(len(image)), sum, r.send)
	}
	sum := sha256.Sum256(image)
	if _, _, err := send([sha256.Size]byte{}); !errors.Is(err, migrate.ErrRefused) || !strings.Contains(err.Error(), hex.EncodeToString(sum[:])) {
		t.Errorf("with a wrong sum: %v", err)
	}
	name, sent, err := send(sum)
	if err != nil || sent != uint64(len(image)) || !bytes.Equal(s.kept[name], image) || len(s.kept) != 1 {
		t.Fatalf("%q, %d bytes, %v", name, sent, err)
	}
	if again, sent, err := send(sum); err != nil || again != name || sent != 0 {
		t.Errorf("again: %q, %d bytes, %v", again, sent, err)
	}
	if _, _, err := migrate.SendImage(t.Context(), r.dial, bytes.NewReader(nil), 5<<20, sum, r.send); !errors.Is(err, migrate.ErrRefused) || !strings.Contains(err.Error(), "no room") {
		t.Errorf("without room: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	called := errors.New("called off")
	cancel(called)
	if _, _, err := migrate.SendImage(ctx, r.dial, bytes.NewReader(image), uint64(len(image)), [sha256.Size]byte{1}, r.send); err == nil {
		t.Error("sent though it was called off")
	}
	// The guest has felt nothing, and can go.
	_, err = migrate.Send(t.Context(), r.src, r.dial, r.journal, r.send)
	if err != nil {
		t.Fatal(err)
	}
	r.judge(t, err)
}

// Whatever a source says of an image, nothing of it is kept unless it is whole, and the
// next one is served.
func TestEnemySendsAnImage(t *testing.T) {
	r, s := withShelf(t)
	e := &enemy{t: t, r: r}
	good := bytes.Repeat([]byte("x"), 1000)
	sum := sha256.Sum256(good)
	info := func(more dict) dict {
		d := dict{"size": len(good), "sha256": hex.EncodeToString(sum[:])}
		for k, v := range more {
			d[k] = v
		}
		return d
	}
	for _, c := range []struct {
		name string
		info any
		then func(c *wire.Conn)
		want string
	}{
		{"nothing in it", info(dict{"size": 0}), nil, "REFUSE"},
		{"without end", info(dict{"size": uint64(1) << 60}), nil, "REFUSE"},
		{"no digest", info(dict{"sha256": "../../etc/passwd"}), nil, "REFUSE"},
		{"capital letters", info(dict{"sha256": strings.ToUpper(hex.EncodeToString(sum[:]))}), nil, "REFUSE"},
		{"more to say", info(dict{"name": "debian"}), nil, "REFUSE"},
		{"another frame", info(nil), func(c *wire.Conn) { say(c, wire.Pages, good) }, "REFUSE"},
		{"longer than said", info(nil), func(c *wire.Conn) { say(c, wire.Blob, append(good, 'y')) }, "REFUSE"},
		{"empty frames", info(nil), func(c *wire.Conn) { say(c, wire.Blob, []byte{}) }, "REFUSE"},
		{"other bytes", info(nil), func(c *wire.Conn) { say(c, wire.Blob, bytes.Repeat([]byte("y"), 1000)) }, "REFUSE"},
		{"half of it", info(nil), func(c *wire.Conn) { say(c, wire.Blob, good[:500]); _ = c.Close() }, "hung up"},
	} {
		conn := e.connect(0, 1)
		say(conn, wire.Hello, hello("image", nil))
		if got := hears(conn); !strings.HasPrefix(got, "WELCOME") {
			t.Fatalf("%s: %s", c.name, got)
		}
		say(conn, wire.Image, c.info)
		got := hears(conn)
		if c.then != nil {
			if !strings.HasPrefix(got, "PREPARED") {
				t.Fatalf("%s: %s", c.name, got)
			}
			c.then(conn)
			got = hears(conn)
		}
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s", c.name, got)
		}
		_ = conn.Close()
		// It takes an instant until the receiver knows that it is free.
		deadline := time.Now().Add(10 * time.Second)
		for {
			_, _, err := migrate.SendImage(t.Context(), r.dial, bytes.NewReader(nil), 5<<20, sum, r.send)
			if strings.Contains(err.Error(), "no room") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: afterwards %v", c.name, err)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.kept) > 0 || s.discarded != 5 {
		t.Errorf("%d kept, %d discarded", len(s.kept), s.discarded)
	}
}

func TestImagesOnlyWhereTheyAreTaken(t *testing.T) {
	r := newRig(t, quick)
	if _, _, err := migrate.SendImage(t.Context(), r.dial, bytes.NewReader([]byte("x")), 1, sha256.Sum256([]byte("x")), r.send); !errors.Is(err, migrate.ErrRefused) {
		t.Errorf("a receiver without a place for them: %v", err)
	}
	r, _ = withShelf(t)
	e := &enemy{t: t, r: r}
	e.open() // a session is under way
	if _, _, err := migrate.SendImage(t.Context(), r.dial, bytes.NewReader([]byte("x")), 1, sha256.Sum256([]byte("x")), r.send); !errors.Is(err, migrate.ErrRefused) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("beside a session: %v", err)
	}
}

// A destination cannot choose a file of the source by the name that it answers.
func TestEnemyNamesAnImage(t *testing.T) {
	for name, answer := range map[string]dict{"path": {"name": "../../shadow"}, "none": {"name": ""}, "more": {"name": "x", "path": "y"}} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			defer nc.Close()
			c := wire.Accept(nc, time.Second)
			_ = hears(c)
			say(c, wire.Welcome, dict{"version": 2})
			_ = hears(c)
			say(c, wire.Stored, answer)
		}()
		var d net.Dialer
		dial := func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", l.Addr().String()) }
		if got, _, err := migrate.SendImage(t.Context(), dial, bytes.NewReader([]byte("x")), 1, sha256.Sum256([]byte("x")), migrate.SendOptions{}); !errors.Is(err, migrate.ErrProtocol) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		_ = l.Close()
	}
}
