package guestproto_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/guestproto"
)

// buffer is a stream in memory.
type buffer struct{ bytes.Buffer }

func (*buffer) Close() error { return nil }

func TestFramesRoundTrip(t *testing.T) {
	var b buffer
	f := guestproto.NewFramer(&b)
	for _, n := range []int{0, 1, 64 << 10, 64<<10 + 1, guestproto.MaxMessage} {
		want := bytes.Repeat([]byte("a"), n)
		if err := f.Send(want); err != nil {
			t.Fatal(err)
		}
		got, err := f.Recv()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d came back, %v", n, len(got), err)
		}
	}
	if _, err := f.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestFrameLimits(t *testing.T) {
	var b buffer
	f := guestproto.NewFramer(&b)
	if err := f.Send(make([]byte, guestproto.MaxMessage+1)); !errors.Is(err, guestproto.ErrTooLarge) || b.Len() != 0 {
		t.Errorf("send: %v, %d bytes written", err, b.Len())
	}
	b.Write([]byte{0xff, 0xff, 0xff, 0xff})
	if _, err := f.Recv(); !errors.Is(err, guestproto.ErrTooLarge) {
		t.Errorf("receive: %v", err)
	}
	b.Reset()
	b.Write([]byte{5, 0, 0, 0, 'x'})
	if _, err := f.Recv(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut short: %v", err)
	}
}

// A length that is announced but does not come must not cost the announced
// amount.
func TestFrameAllocatesAsBytesArrive(t *testing.T) {
	hdr := []byte{0, 0, 0x10, 0} // 1 MiB
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		var b buffer
		b.Write(hdr)
		if _, err := guestproto.NewFramer(&b).Recv(); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / 100; n > 128<<10 {
		t.Errorf("%d bytes were allocated for an empty message", n)
	}
}

func TestStreamHeaderRoundTripsAndRejects(t *testing.T) {
	h := guestproto.StreamHeader{FD: 2, Token: guestproto.Token{1, 2, 3}}
	b := h.Encode()
	if got, err := guestproto.ParseStreamHeader(b); err != nil || got != h {
		t.Errorf("%+v, %v", got, err)
	}
	for _, i := range []int{0, 4, 5, 6, 7} {
		c := b
		c[i] ^= 0x40
		if _, err := guestproto.ParseStreamHeader(c); !errors.Is(err, guestproto.ErrInvalid) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
}

func TestTokenText(t *testing.T) {
	tok := guestproto.Token{0: 0xab, 15: 1}
	b, err := json.Marshal(guestproto.Streams{tok})
	if err != nil {
		t.Fatal(err)
	}
	var back guestproto.Streams
	if err := json.Unmarshal(b, &back); err != nil || back[0] != tok || !back[1].IsZero() {
		t.Errorf("%s became %v, %v", b, back, err)
	}
	for _, bad := range []string{`["ab"]`, `["` + strings.Repeat("g", 32) + `"]`} {
		if err := json.Unmarshal([]byte(bad), &back); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestCleanTextKeepsTerminalsSafe(t *testing.T) {
	if got := guestproto.CleanText("a\x1b[31m\n\u202eb"); got != "a.[31m..b" {
		t.Errorf("%q", got)
	}
	if n := len(guestproto.CleanText(strings.Repeat("x", 1<<20))); n != 4096 {
		t.Errorf("%d bytes were kept", n)
	}
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "web-1_x.Y", strings.Repeat("i", 64)} {
		if err := guestproto.CheckID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", "a/b", "a b", "é", "a\n", strings.Repeat("i", 65)} {
		if err := guestproto.CheckID(id); !errors.Is(err, guestproto.ErrInvalid) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// FuzzFrame checks that a byte stream from a peer never costs more than it
// sends, beyond a constant, and that what passes is within the limit.
func FuzzFrame(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		buf := &buffer{*bytes.NewBuffer(b)}
		fr := guestproto.NewFramer(buf)
		total := 0
		for {
			msg, err := fr.Recv()
			if err != nil {
				break
			}
			total += 4 + len(msg)
		}
		if total > len(b) {
			t.Errorf("%d bytes came out of %d", total, len(b))
		}
	})
}

func TestTableOfAGuestIsJudged(t *testing.T) {
	good := guestproto.Task{PID: 1, State: "S", Threads: 1, Command: "sh"}
	many := make([]guestproto.Task, guestproto.MaxListed+1)
	with := func(change func(*guestproto.Task)) guestproto.Table {
		k := good
		change(&k)
		return guestproto.Table{Total: 1, Processes: []guestproto.Task{k}}
	}
	if err := with(func(*guestproto.Task) {}).Validate(); err != nil {
		t.Error(err)
	}
	for name, table := range map[string]guestproto.Table{
		"more listed than there are": {Processes: []guestproto.Task{good}},
		"too many":                   {Total: len(many), Processes: many},
		"a negative number":          with(func(k *guestproto.Task) { k.PID = -1 }),
		"a state that is a text":     with(func(k *guestproto.Task) { k.State = "sleeping" }),
		"a state with an escape":     with(func(k *guestproto.Task) { k.State = "\x1b[2" }),
		"negative time":              with(func(k *guestproto.Task) { k.CPUNs = -1 }),
		"impossible memory":          with(func(k *guestproto.Task) { k.RSSBytes = 1 << 61 }),
		"a long command":             with(func(k *guestproto.Task) { k.Command = strings.Repeat("x", 300) }),
	} {
		if err := table.Validate(); !errors.Is(err, guestproto.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
