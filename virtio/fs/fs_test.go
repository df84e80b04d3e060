package fs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/fs"
	"github.com/hvctl/hvctl/virtio/fs/hostdir"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

// Operations of the protocol (include/uapi/linux/fuse.h).
const (
	opLookup  = 1
	opForget  = 2
	opGetattr = 3
	opOpen    = 14
	opRead    = 15
	opWrite   = 16
	opRelease = 18
	opInit    = 26
	opReaddir = 28
	opCreate  = 35
	opDestroy = 38
)

// Queues of the device.
const urgent, requests = 0, 1

var le = binary.LittleEndian

// message is a request: the header and what follows it.
func message(op uint32, node uint64, body ...any) []byte {
	var b bytes.Buffer
	for _, v := range body {
		if s, ok := v.(string); ok {
			b.WriteString(s)
			b.WriteByte(0)
		} else if err := binary.Write(&b, le, v); err != nil {
			panic(err)
		}
	}
	h := make([]byte, 40, 40+b.Len())
	le.PutUint32(h, uint32(40+b.Len()))
	le.PutUint32(h[4:], op)
	le.PutUint64(h[8:], 77)
	le.PutUint64(h[16:], node)
	return append(h, b.Bytes()...)
}

func initMessage(major, minor uint32) []byte {
	return message(opInit, 0, [16]uint32{major, minor, 128 << 10})
}

// ask sends a request and returns the error number and the rest of the answer.
func ask(t testing.TB, d *virtiotest.Driver, msg []byte, room int) (errno int32, rest []byte) {
	t.Helper()
	got := d.Queue(requests).Do(virtiotest.Out(msg), virtiotest.In(16+room))
	if got.Written < 16 || le.Uint32(got.In) != got.Written || le.Uint64(got.In[8:]) != 77 {
		t.Fatalf("answer of %d bytes: % x", got.Written, got.In[:16])
	}
	return int32(le.Uint32(got.In[4:])), got.In[16:got.Written]
}

func mustAsk(t testing.TB, d *virtiotest.Driver, msg []byte, room int) []byte {
	t.Helper()
	errno, rest := ask(t, d, msg, room)
	if errno != 0 {
		t.Fatalf("operation %d: error %d", le.Uint32(msg[4:]), errno)
	}
	return rest
}

func shared(t testing.TB) (string, virtio.Args) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, virtio.Args{ID: "data", Values: map[string]string{"path": dir}}
}

// sameDirectory is shared, but the same directory all through a test: it is part of
// the state which one that is.
func sameDirectory(t testing.TB) virtio.Args {
	if a, ok := directories.Load(t); ok {
		return a.(virtio.Args)
	}
	_, a := shared(t)
	directories.Store(t, a)
	t.Cleanup(func() { directories.Delete(t) })
	return a
}

var directories sync.Map

var suite = virtiotest.Suite{
	Kind:     fs.Kind,
	MakeArgs: sameDirectory,
	Request: func(t testing.TB, d *virtiotest.Driver) {
		if attr := mustAsk(t, d, message(opGetattr, 1, [16]byte{}), 200); len(attr) != 104 {
			t.Fatalf("%d bytes of attributes", len(attr))
		}
	},
}

func TestSuite(t *testing.T) { suite.Run(t) }

func FuzzDevice(f *testing.F) { suite.Fuzz(f) }

func start(t testing.TB) (*virtiotest.Driver, string) {
	t.Helper()
	dir, a := shared(t)
	dev, err := fs.Kind.New(a)
	if err != nil {
		t.Fatal(err)
	}
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	if out := mustAsk(t, d, initMessage(7, 36), 100); le.Uint32(out) != 7 {
		t.Fatalf("init: % x", out)
	}
	return d, dir
}

func TestTagAndQueuesAreInTheConfiguration(t *testing.T) {
	_, a := shared(t)
	dev, err := fs.Kind.New(a)
	if err != nil {
		t.Fatal(err)
	}
	var c [40]byte
	dev.(virtio.ConfigSpace).ReadConfig(c[:], 0)
	if string(c[:5]) != "data\x00" || le.Uint32(c[36:]) != 1 {
		t.Errorf("% x", c)
	}
	for _, tag := range []string{strings.Repeat("x", 37), ""} {
		if _, err := fs.New(fs.Options{Tag: tag, Dir: hostdir.Options{Path: t.TempDir()}}); !errors.Is(err, virtio.ErrArgs) {
			t.Errorf("tag %q: %v", tag, err)
		}
	}
}

// open looks file up and creates what is not there; it returns node and handle.
func create(t testing.TB, d *virtiotest.Driver, name string) (node, fh uint64) {
	t.Helper()
	out := mustAsk(t, d, message(opCreate, 1, [4]uint32{uint32(os.O_RDWR), 0o644, 0, 0}, name), 200)
	return le.Uint64(out), le.Uint64(out[128:])
}

type rw struct {
	Fh, Off    uint64
	Size, Flag uint32
	Owner      uint64
	Flags, Pad uint32
}

func TestDataGoesBothWaysThroughScatteredBuffers(t *testing.T) {
	d, dir := start(t)
	node, fh := create(t, d, "new")
	data := bytes.Repeat([]byte("0123456789abcdef"), 8<<10) // 128 KiB
	head := message(opWrite, node, rw{Fh: fh, Off: 5, Size: uint32(len(data))})
	le.PutUint32(head, uint32(len(head)+len(data)))
	// The header itself is split, and the data begins in its last buffer.
	msg := append(head, data...)
	got := d.Queue(requests).Do(virtiotest.Out(msg[:17]), virtiotest.Out(msg[17:100]), virtiotest.Out(msg[100:5000]), virtiotest.Out(msg[5000:]),
		virtiotest.In(9), virtiotest.In(15))
	if got.Written != 24 || le.Uint32(got.In[4:]) != 0 || le.Uint32(got.In[16:]) != uint32(len(data)) {
		t.Fatalf("write: % x", got.In)
	}
	want := append(make([]byte, 5), data...)
	if b, err := os.ReadFile(filepath.Join(dir, "new")); err != nil || !bytes.Equal(b, want) {
		t.Fatalf("the host sees %d bytes, %v", len(b), err)
	}
	read := message(opRead, node, rw{Fh: fh, Off: 3, Size: 100_000})
	got = d.Queue(requests).Do(virtiotest.Out(read), virtiotest.In(16), virtiotest.In(4096), virtiotest.In(1), virtiotest.In(95_903))
	if got.Written != 16+100_000 || !bytes.Equal(got.In[16:], want[3:100_003]) {
		t.Errorf("read %d bytes", got.Written)
	}
	read = message(opRead, node, rw{Fh: fh, Off: uint64(len(want) - 2), Size: 4096})
	if got = d.Queue(requests).Do(virtiotest.Out(read), virtiotest.In(16), virtiotest.In(4096)); got.Written != 18 {
		t.Errorf("read %d bytes at the end of the file", got.Written)
	}
}

func TestForgetIsNotAnswered(t *testing.T) {
	d, _ := start(t)
	out := mustAsk(t, d, message(opLookup, 1, "file"), 200)
	node := le.Uint64(out)
	if got := d.Queue(urgent).Do(virtiotest.Out(message(opForget, node, uint64(1)))); got.Written != 0 {
		t.Errorf("%d bytes", got.Written)
	}
	if errno, _ := ask(t, d, message(opGetattr, node, [16]byte{}), 200); errno == 0 {
		t.Error("the node is still there")
	}
}

// What a hostile client sends gets an error number, and the device lives.
func TestBadRequestsAreAnsweredWithAnError(t *testing.T) {
	d, _ := start(t)
	huge := message(opRead, 1, rw{Size: 1 << 31})
	for name, c := range map[string]struct {
		msg  []byte
		room int
	}{
		"unknown operation":            {message(4711, 1), 100},
		"empty body":                   {message(opCreate, 1), 200},
		"name without an end":          {message(opLookup, 1, [3]byte{'a', 'b', 'c'}), 200},
		"node that is none":            {message(opGetattr, 999, [16]byte{}), 200},
		"handle that is none":          {message(opRead, 1, rw{Fh: 99, Size: 10}), 10},
		"more than there is room":      {huge, 10},
		"listing without room":         {message(opReaddir, 1, rw{Size: 1 << 30}), 10},
		"no room for an answer's body": {message(opGetattr, 1, [16]byte{}), 3},
		"old protocol":                 {initMessage(6, 36), 100},
		"short init":                   {message(opInit, 0), 100},
		"offset out of bounds":         {message(opRead, 1, rw{Off: 1 << 63, Size: 10}), 10},
	} {
		if errno, _ := ask(t, d, c.msg, c.room); errno >= 0 {
			t.Errorf("%s: error %d", name, errno)
		}
	}
	long := message(opLookup, 1, strings.Repeat("x", 200<<10))
	if errno, _ := ask(t, d, long, 200); errno >= 0 {
		t.Errorf("a name of 200 KiB: error %d", errno)
	}
	mustAsk(t, d, message(opLookup, 1, "file"), 200)
}

func TestShortRequestIsTheDriversMistake(t *testing.T) {
	d, _ := start(t)
	d.Queue(requests).Add(virtiotest.Out(make([]byte, 39)), virtiotest.In(100))
	d.Queue(requests).Kick()
	d.WaitNeedsReset()
}

// A guest that has the directory mounted goes on with what it knew and had open.
func TestMountedShareIsSaved(t *testing.T) {
	dir, a := shared(t)
	dev, err := fs.Kind.New(a)
	if err != nil {
		t.Fatal(err)
	}
	d := virtiotest.Start(t, dev, virtiotest.Options{})
	mustAsk(t, d, initMessage(7, 36), 200)
	node := le.Uint64(mustAsk(t, d, message(opLookup, 1, "file"), 200))
	mustAsk(t, d, message(opOpen, node, [2]uint32{}), 100)
	s, err := state.Save("fs", dev)
	if err != nil {
		t.Fatal(err)
	}

	load := func(tag string, s state.Section) (*fs.Device, error) {
		other, err := fs.New(fs.Options{Tag: tag, Dir: hostdir.Options{Path: dir}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { other.Close() })
		return other, state.Load(s, other)
	}
	if _, err := load("other", s); !errors.Is(err, state.ErrCorrupt) {
		t.Errorf("state of another share: %v", err)
	}
	promised := bytes.Replace(s.Payload, []byte(`"Answer":"`), []byte(`"Answer":"AAAA`), 1)
	if _, err := load("data", section(promised, 2)); !errors.Is(err, fs.ErrPromised) {
		t.Errorf("another answer to FUSE_INIT: %v", err)
	}
	if _, err := load("data", section([]byte(`{"Tag":"data","Init":"AAAA"}`), 2)); !errors.Is(err, state.ErrCorrupt) {
		t.Errorf("an impossible FUSE_INIT: %v", err)
	}
	if _, err := load("data", section([]byte(`{"Tag":"data"}`), 1)); err != nil {
		t.Errorf("version 1: %v", err)
	}

	other, err := load("data", s)
	if err != nil {
		t.Fatal(err)
	}
	again, err := state.Save("fs", other)
	if err != nil || !bytes.Equal(again.Payload, s.Payload) {
		t.Errorf("saved again it differs: %v\n%s\n%s", err, s.Payload, again.Payload)
	}
}

func section(payload []byte, version uint32) state.Section {
	return state.Section{Path: "fs", Version: version, CRC: crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli)), Payload: payload}
}

// FuzzRequest sends one arbitrary request after a valid beginning.
func FuzzRequest(f *testing.F) {
	f.Add(uint32(opLookup), uint64(1), []byte("file\x00"), 200)
	f.Add(uint32(opCreate), uint64(1), append(make([]byte, 16), "new\x00"...), 300)
	f.Add(uint32(opReaddir), uint64(1), make([]byte, 40), 4096)
	f.Add(uint32(42), uint64(0), make([]byte, 24), 0)
	f.Add(uint32(22), uint64(1), append(make([]byte, 8), "user.x\x00"...), 100)
	f.Add(uint32(12), uint64(1), append(make([]byte, 8), "file\x00g\x00"...), 16)
	f.Fuzz(func(t *testing.T, op uint32, node uint64, body []byte, room int) {
		d, _ := start(t)
		msg := message(op, node, body)
		d.Queue(requests).Do(virtiotest.Out(msg), virtiotest.In(1+room&0xffff))
		if op != opInit && op != opDestroy {
			mustAsk(t, d, message(opGetattr, 1, [16]byte{}), 200)
		}
	})
}
