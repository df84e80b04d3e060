package gdbstub

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

// fake is a machine of two CPUs and a little memory that only remembers.
type fake struct {
	regs   [2]Regs
	mem    []byte // at 0x1000
	breaks []Break
	stops  chan Stop
	log    []string
}

func newFake() *fake {
	f := &fake{mem: make([]byte, 64), stops: make(chan Stop, 1)}
	f.regs[1].RIP = 0x1234
	return f
}

const fakeBase = 0x1000

func (f *fake) CPUs() int                     { return 2 }
func (f *fake) Regs(cpu int) (Regs, error)    { return f.regs[cpu], nil }
func (f *fake) SetRegs(cpu int, r Regs) error { f.regs[cpu] = r; return nil }
func (f *fake) Stops() <-chan Stop            { return f.stops }
func (f *fake) Halt() error                   { f.log = append(f.log, "halt"); return nil }
func (f *fake) Detach() error                 { f.log = append(f.log, "detach"); return nil }

func (f *fake) ReadMemory(_ int, addr uint64, p []byte) (int, error) {
	if addr < fakeBase || addr >= fakeBase+uint64(len(f.mem)) {
		return 0, errors.New("no memory there")
	}
	return copy(p, f.mem[addr-fakeBase:]), nil
}

func (f *fake) WriteMemory(_ int, addr uint64, p []byte) error {
	if addr < fakeBase || addr > fakeBase+uint64(len(f.mem)) || uint64(len(p)) > fakeBase+uint64(len(f.mem))-addr {
		return errors.New("no memory there")
	}
	copy(f.mem[addr-fakeBase:], p)
	return nil
}

func (f *fake) SetBreak(_ int, b Break) error {
	switch {
	case b.Kind == ReadWatch:
		return ErrUnsupported
	case len(f.breaks) == 2:
		return ErrFull
	}
	f.breaks = append(f.breaks, b)
	return nil
}

func (f *fake) ClearBreak(b Break) error {
	f.log = append(f.log, fmt.Sprintf("clear %+v", b))
	return nil
}

func (f *fake) Resume(run, step []bool) error {
	f.log = append(f.log, fmt.Sprintf("run %v step %v", run, step))
	return nil
}

// client is the other end of a session.
type client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
	over chan error
}

func dial(t *testing.T, f *fake) *client {
	t.Helper()
	ours, theirs := net.Pipe()
	c := &client{t: t, conn: theirs, r: bufio.NewReader(theirs), over: make(chan error, 1)}
	go func() {
		err := serve(t.Context(), f, ours, bufio.NewReader(ours), slog.New(slog.DiscardHandler))
		_ = ours.Close()
		c.over <- err
	}()
	t.Cleanup(func() { _ = theirs.Close() })
	_ = theirs.SetDeadline(time.Now().Add(time.Minute))
	return c
}

func (c *client) say(data string) {
	c.t.Helper()
	w := bufio.NewWriter(c.conn)
	if err := writePacket(w, data); err != nil {
		c.t.Fatal(err)
	}
	if b, err := c.r.ReadByte(); err != nil || b != '+' {
		c.t.Fatalf("%q was answered by %q, %v", data, b, err)
	}
}

func (c *client) hear() string {
	c.t.Helper()
	p, err := readPacket(c.r)
	if err != nil || p.bad {
		c.t.Fatalf("%+v, %v", p, err)
	}
	return p.data
}

func (c *client) ask(data string) string { c.t.Helper(); c.say(data); return c.hear() }

func TestPacketsAreAnswered(t *testing.T) {
	f := newFake()
	copy(f.mem, "memory")
	c := dial(t, f)
	for _, tc := range []struct{ ask, want string }{
		{"?", "T05thread:1;"},
		{"qfThreadInfo", "m1,2"},
		{"qsThreadInfo", "l"},
		{"qC", "QC1"},
		{"T2", "OK"},
		{"T3", "E03"},
		{"Hg2", "OK"},
		{"p10", "3412000000000000"}, // rip of the second
		{"P10=7856000000000000", "OK"},
		{"p10", "7856000000000000"},
		{"p10=", "E16"},
		{"pffff", "E16"},
		{"Hg9", "E03"},
		{"m1000,6", "6d656d6f7279"},
		{"m103e,8", "0000"}, // to the end
		{"m0,4", "E0e"},
		{"M1000,2:4142", "OK"},
		{"X1002,2:#}", "OK"},
		{"m1000,4", "4142237d"},
		{"X0,0:", "OK"},
		{"M1000,3:41", "E16"},
		{"M1000,1:4", "E16"},
		{"Z0,1000,1", "OK"},
		{"Z3,1000,1", ""},
		{"Z2,1008,8", "OK"},
		{"Z1,1010,1", "E1c"},
		{"Z0,1000,1;X3,220027", ""}, // a condition in bytecode
		{"Z9,1,1", ""},
		{"z0,1000,1", "OK"},
		{"vCont?", "vCont;c;C;s;S"},
		{"vCont;x", "E16"},
		{"vCont;s:7", "E16"},
		{"vMustReplyEmpty", ""},
		{"qThreadExtraInfo,2", "764350552031"}, // vCPU 1
		{"qAttached", "1"},
		{"qXfer:features:read:target.xml:0,5", "m<?xml"},
		{"qXfer:features:read:target.xml:fffffff,5", "l"},
		{"qXfer:features:read:other.xml:0,5", ""},
		{"", ""},
		{"G", "E16"},
		{"H", "E16"},
	} {
		if got := c.ask(tc.ask); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.ask, got, tc.want)
		}
	}
	if got := c.ask("m1000,ffffffffffffffff"); len(got) != 2*len(f.mem) {
		t.Errorf("all memory there is: %d digits", len(got))
	}
	all := c.ask("g")
	if len(all) != 2*regsSize() || c.ask("G"+all) != "OK" || c.ask("g") != all {
		t.Errorf("registers of %d digits", len(all))
	}
	if got := c.ask("D"); got != "OK" {
		t.Error(got)
	}
	if err := <-c.over; err != nil || f.log[len(f.log)-1] != "detach" {
		t.Errorf("%v, %q", err, f.log)
	}
}

func TestStopsAreToldWhileTheGuestRuns(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	c.say("vCont;s:2;c")
	f.stops <- Stop{CPU: 1, Signal: SigTrap, Break: &Break{Kind: WriteWatch, Addr: 0x1008}}
	if got := c.hear(); got != "T05thread:2;watch:1008;" {
		t.Error(got)
	}
	c.say("c")
	if _, err := c.conn.Write([]byte{interruptByte}); err != nil {
		t.Fatal(err)
	}
	if got := c.hear(); got != "T02thread:2;" {
		t.Error(got)
	}
	c.say("vCont;s:1")
	f.stops <- Stop{Ended: true}
	if got := c.hear(); got != "W00" {
		t.Error(got)
	}
	if err := <-c.over; err != nil {
		t.Error(err)
	}
	want := "[run [true true] step [false true] halt run [true true] step [false false] halt halt run [true false] step [true false] detach]"
	if got := fmt.Sprint(f.log); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestAWrongChecksumIsAskedForAgain(t *testing.T) {
	c := dial(t, newFake())
	if _, err := c.conn.Write([]byte("$qC#00")); err != nil {
		t.Fatal(err)
	}
	if b, err := c.r.ReadByte(); err != nil || b != '-' {
		t.Errorf("%q, %v", b, err)
	}
	if got := c.ask("qC"); got != "QC1" {
		t.Error(got)
	}
}

func TestAClientThatBreaksTheRulesLosesTheGuest(t *testing.T) {
	for name, text := range map[string]string{
		"a web page":               "POST / HTTP/1.1\r\n\r\n$c#63",
		"an endless packet":        "$" + strings.Repeat("a", maxPacket+1),
		"a packet to a running VM": "$c#63+$g#67",
		"gone":                     "$",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			c := dial(t, f)
			go func() { _, _ = io.Copy(io.Discard, c.r) }()
			_, _ = c.conn.Write([]byte(text)) // the session may have gone before the end
			if name == "gone" {
				_ = c.conn.Close()
			}
			err := <-c.over
			if (name != "gone") != errors.Is(err, errProtocol) {
				t.Errorf("error %v", err)
			}
			if f.log[len(f.log)-1] != "detach" {
				t.Errorf("the guest was not let go: %q", f.log)
			}
		})
	}
}

func TestServeStopsNobodyForAWebPage(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	attached := make(chan struct{}, 4)
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, nil, func() (Target, error) { attached <- struct{}{}; return newFake(), nil }, slog.New(slog.DiscardHandler))
	}()
	web, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = web.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	if _, err := io.ReadAll(web); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
	gdb, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer gdb.Close()
	_, _ = gdb.Write([]byte("+$qC#b4"))
	<-attached
	cancel()
	if err := <-done; err != nil || len(attached) != 0 {
		t.Errorf("%v; attached %d times more", err, len(attached))
	}
}

func TestAddressesOfOtherMachinesAreRefused(t *testing.T) {
	for in, want := range map[string]string{
		"1234": "tcp 127.0.0.1:1234", ":0": "tcp 127.0.0.1:0", "localhost:5": "tcp 127.0.0.1:5", "[::1]:7": "tcp [::1]:7",
		"unix:/run/x": "unix /run/x", "unix:": "", "0.0.0.0:1": "", "192.0.2.1:1": "", "x": "", "127.0.0.1:": "", "127.0.0.1:99999": "", "": "",
	} {
		a, err := ParseAddress(in)
		if got := a.Network + " " + a.Addr; (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

func TestAUnixSocketIsOursAndReplacesADeadOne(t *testing.T) {
	a := Address{"unix", t.TempDir() + "/gdb"}
	l, err := a.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Listen(); err == nil {
		t.Error("a second one was opened")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	l, err = a.Listen()
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func FuzzSession(f *testing.F) {
	f.Add([]byte("+$qSupported#37+$g#67+$m1000,40#8e$vCont;s:1;c#00\x03$D#44"))
	f.Add([]byte("$Z0,1000,1#43$X1000,2:}\x03a#00$G00#d7$P1=00#00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = serve(t.Context(), newFake(), ours, bufio.NewReader(ours), slog.New(slog.DiscardHandler))
			_ = ours.Close()
		}()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		_, _ = io.Copy(theirs, bytes.NewReader(in))
		_ = theirs.Close()
		<-done
	})
}

func FuzzPacket(f *testing.F) {
	f.Add([]byte("hello}#$*"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > maxPacket {
			return
		}
		var b bytes.Buffer
		if err := writePacket(bufio.NewWriter(&b), string(data)); err != nil {
			t.Fatal(err)
		}
		p, err := readPacket(bufio.NewReader(&b))
		if err != nil || p.bad || p.data != string(data) {
			t.Errorf("%q came back as %+v, %v", data, p, err)
		}
		_, _ = readPacket(bufio.NewReader(bytes.NewReader(data)))
	})
}
