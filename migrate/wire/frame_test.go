package wire_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/migrate/wire"
)

// tape is a connection that keeps what is written, or gives what is on it.
type tape struct {
	net.Conn
	bytes.Buffer
}

func (t *tape) Read(p []byte) (int, error)       { return t.Buffer.Read(p) }
func (t *tape) Write(p []byte) (int, error)      { return t.Buffer.Write(p) }
func (t *tape) SetReadDeadline(time.Time) error  { return nil }
func (t *tape) SetWriteDeadline(time.Time) error { return nil }

// frames returns the bytes of the frames with the payloads given.
func frames(t testing.TB, typ wire.Type, payloads ...string) [][]byte {
	t.Helper()
	var out [][]byte
	rec := &tape{}
	c := wire.NewConn(rec, 3, 7, time.Second)
	for _, p := range payloads {
		if err := c.Send(typ, []byte(p)); err != nil {
			t.Fatal(err)
		}
		out = append(out, bytes.Clone(rec.Bytes()))
		rec.Reset()
	}
	return out
}

func TestFramesComeBackInOrder(t *testing.T) {
	f := frames(t, wire.State, "one", "", strings.Repeat("x", wire.MaxPayload))
	c := wire.Accept(&tape{Buffer: *bytes.NewBuffer(bytes.Join(f, nil))}, time.Second)
	for i, want := range []int{3, 0, wire.MaxPayload} {
		typ, p, err := c.Recv(0)
		if err != nil || typ != wire.State || len(p) != want {
			t.Fatalf("frame %d: %v, %d bytes, %v", i, typ, len(p), err)
		}
	}
	if c.Channel() != 3 || c.Epoch() != 7 {
		t.Errorf("channel %d, epoch %d", c.Channel(), c.Epoch())
	}
	if _, _, err := c.Recv(0); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestRecvRefusesWhatIsNotTheNextFrame(t *testing.T) {
	f := frames(t, wire.State, "one", "two", "three")
	flip := func(b []byte, at int) []byte { b = bytes.Clone(b); b[at] ^= 1; return b }
	for _, tc := range []struct {
		name string
		in   [][]byte
		want string
	}{
		{"lost", [][]byte{f[0], f[2]}, "frame 2 came, want 1"},
		{"repeated", [][]byte{f[0], f[0]}, "frame 0 came, want 1"},
		{"swapped", [][]byte{f[0], f[2], f[1]}, "frame 2 came"},
		{"payload", [][]byte{f[0], flip(f[1], wire.HeaderSize+1)}, "STATE has the checksum"},
		{"header", [][]byte{f[0], flip(f[1], 17)}, "header has the checksum"},
		{"magic", [][]byte{f[0], flip(f[1], 0)}, "begins with"},
		{"cut off", [][]byte{f[0], f[1][:wire.HeaderSize+1]}, "unexpected EOF"},
		{"another stream's", append([][]byte{f[0]}, reseal(f[1], 6, 4)), "channel 4"},
		{"another session's", append([][]byte{f[0]}, reseal(f[1], 8, 6)), "epoch 6"},
		{"too long", append([][]byte{f[0]}, reseal(f[1], 15, 1)), "at most"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := wire.Accept(&tape{Buffer: *bytes.NewBuffer(bytes.Join(tc.in, nil))}, time.Second)
			if _, _, err := c.Recv(0); err != nil {
				t.Fatal(err)
			}
			_, _, err := c.Recv(0)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

// reseal changes a byte of the header and makes its checksum right.
func reseal(f []byte, at int, to byte) []byte {
	f = bytes.Clone(f)
	f[at] = to
	crc := wire.CRC(0, f[:28])
	f[28], f[29], f[30], f[31] = byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24)
	return f
}

func TestOptionalFramesAreSkipped(t *testing.T) {
	f := append(frames(t, wire.Ping, ""), reseal(frames(t, wire.Ready, "a", "b")[1], 16, 1))
	c := wire.Accept(&tape{Buffer: *bytes.NewBuffer(bytes.Join(f, nil))}, time.Second)
	if typ, p, err := c.Recv(0); err != nil || typ != wire.Ready || string(p) != "b" {
		t.Errorf("%v %q %v", typ, p, err)
	}
}

func TestDecodePagesRefusesRunsThatAreNotThere(t *testing.T) {
	pages := []uint64{1000, 8}
	for _, tc := range []struct {
		name string
		runs []wire.Run
		data int // pages of bytes
		want string
	}{
		{"good", []wire.Run{{Region: 0, Count: 2, Page: 510}, {Region: 1, Count: 8, Zero: true, Dense: true}, {Region: 0, Count: 1, Page: 999}}, 3, ""},
		{"none", nil, 0, "with 0 runs"},
		{"too many", make([]wire.Run, wire.MaxRuns+1), 0, "65 runs"},
		{"no such region", []wire.Run{{Region: 2, Count: 1, Zero: true}}, 0, "region 2"},
		{"empty run", []wire.Run{{Region: 0, Count: 0, Zero: true}}, 0, "0 pages"},
		{"over a stripe's end", []wire.Run{{Region: 0, Count: 3, Zero: true, Page: 510}}, 0, "leaves its stripe"},
		{"over the region's end", []wire.Run{{Region: 1, Count: 2, Zero: true, Page: 7}}, 0, "leaves region 1"},
		{"beyond the region", []wire.Run{{Region: 0, Count: 1, Zero: true, Page: 1 << 63}}, 0, "leaves region 0"},
		{"missing bytes", []wire.Run{{Region: 0, Count: 2}}, 1, "4096 bytes of 2 pages"},
		{"bytes of a zero run", []wire.Run{{Region: 0, Count: 1, Zero: true}}, 1, "4096 bytes of 0 pages"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := append(wire.AppendRuns(nil, tc.runs), make([]byte, tc.data*memory.PageSize)...)
			runs, data, err := wire.DecodePages(b, pages, nil)
			if tc.want == "" && (err != nil || len(runs) != len(tc.runs) || runs[1] != tc.runs[1] || len(data) != tc.data*memory.PageSize) {
				t.Errorf("%v, %d bytes, %v", runs, len(data), err)
			}
			if tc.want != "" && (!errors.Is(err, wire.ErrCorrupt) || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func FuzzStream(f *testing.F) {
	f.Add(bytes.Join(frames(f, wire.State, "one", "two"), nil))
	f.Add(bytes.Join(frames(f, wire.Ping, ""), nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := wire.Accept(&tape{Buffer: *bytes.NewBuffer(b)}, time.Second)
		for n := 0; ; n++ {
			_, p, err := c.Recv(0)
			if err != nil {
				return
			}
			if len(p) > wire.MaxPayload || n*wire.HeaderSize > len(b) {
				t.Fatalf("frame %d of %d bytes out of %d", n, len(p), len(b))
			}
		}
	})
}

func FuzzPages(f *testing.F) {
	f.Add(append(wire.AppendRuns(nil, []wire.Run{{Region: 0, Count: 1, Page: 3}, {Region: 1, Count: 4, Zero: true, Dense: true}}), make([]byte, memory.PageSize)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		pages := []uint64{600, 8}
		runs, data, err := wire.DecodePages(b, pages, nil)
		if err != nil {
			return
		}
		n := 0
		for _, r := range runs {
			if r.Page+uint64(r.Count) > pages[r.Region] {
				t.Errorf("run %+v leaves its region", r)
			}
			if !r.Zero {
				n += int(r.Count)
			}
		}
		if n*memory.PageSize != len(data) {
			t.Errorf("%d bytes for %d pages", len(data), n)
		}
	})
}
