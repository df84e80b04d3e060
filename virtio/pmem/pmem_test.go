package pmem_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/state"
	"github.com/hvctl/hvctl/memory"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/pmem"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

func file(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	err := os.WriteFile(path, nil, 0o600)
	if err == nil {
		err = os.Truncate(path, size)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var suite = virtiotest.Suite{
	Kind: pmem.Kind,
	MakeArgs: func(t testing.TB) virtio.Args {
		return virtio.Args{ID: "p", Values: map[string]string{"path": file(t, memory.HugePageSize)}}
	},
	Request: func(t testing.TB, d *virtiotest.Driver) {
		t.Helper()
		if got := ask(d, 0); got != 0 {
			t.Fatalf("a flush was answered with %d", got)
		}
	},
}

func ask(d *virtiotest.Driver, kind uint32) uint32 {
	u := d.Queue(0).Do(virtiotest.Out(binary.LittleEndian.AppendUint32(nil, kind)), virtiotest.In(4))
	return binary.LittleEndian.Uint32(u.In)
}

func TestSuite(t *testing.T)  { suite.Run(t) }
func FuzzDevice(f *testing.F) { suite.Fuzz(f) }

func start(t *testing.T, o pmem.Options, sync ...func() error) (*virtiotest.Driver, *pmem.Device) {
	t.Helper()
	dev, err := pmem.New(o)
	if err != nil {
		t.Fatal(err)
	}
	dev.Place(5 << 30)
	for _, f := range sync {
		dev.SetSync(f)
	}
	return virtiotest.Start(t, dev, virtiotest.Options{}), dev
}

func TestTheDriverIsToldWhereTheFileIs(t *testing.T) {
	d, dev := start(t, pmem.Options{Path: file(t, memory.HugePageSize+1), ReadOnly: true})
	c := d.Config(0, 16)
	if at, n := binary.LittleEndian.Uint64(c), binary.LittleEndian.Uint64(c[8:]); at != 5<<30 || n != 2*memory.HugePageSize {
		t.Errorf("%#x bytes at %#x", n, at)
	}
	if m, ro := dev.Mapping(); len(m) != 2*memory.HugePageSize || !ro {
		t.Errorf("%#x bytes, read-only: %v", len(m), ro)
	}
	d.Link.WriteConfig(0, []byte{1})
	if c := d.Config(0, 1); c[0] != 0 {
		t.Error("the driver has moved the file")
	}
}

func TestOneSyncAnswersAllWhoWait(t *testing.T) {
	begun, over := make(chan struct{}), make(chan struct{})
	d, dev := start(t, pmem.Options{Path: file(t, memory.HugePageSize)}, func() error { begun <- struct{}{}; <-over; return nil })
	q := d.Queue(0)
	flush := func() { q.Add(virtiotest.Out(make([]byte, 4)), virtiotest.In(4)) }
	flush()
	q.Kick()
	<-begun
	for range 3 {
		flush()
	}
	q.Kick()
	over <- struct{}{}
	<-begun
	over <- struct{}{}
	for range 4 {
		if u := q.Wait(); u.Written != 4 {
			t.Errorf("%d bytes of an answer", u.Written)
		}
	}
	if m := dev.Metrics().(*pmem.Metrics); m.Flushes.Load() != 4 || m.Syncs.Load() != 2 {
		t.Errorf("%d flushes, %d syncs", m.Flushes.Load(), m.Syncs.Load())
	}
}

func TestWhatGoesWrongIsAnswered(t *testing.T) {
	d, _ := start(t, pmem.Options{Path: file(t, memory.HugePageSize)})
	if got := ask(d, 1); got == 0 {
		t.Error("an unknown request was answered with success")
	}
	d, _ = start(t, pmem.Options{Path: file(t, memory.HugePageSize)}, func() error { return errors.New("disk broken") })
	if got := ask(d, 0); got == 0 {
		t.Error("a sync that failed was answered with success")
	}
}

func TestAFileThatIsOnlyReadIsNotSynced(t *testing.T) {
	d, dev := start(t, pmem.Options{Path: file(t, 1), ReadOnly: true})
	if got := ask(d, 0); got != 0 {
		t.Errorf("answered with %d", got)
	}
	if m := dev.Metrics().(*pmem.Metrics); m.Syncs.Load() != 0 {
		t.Errorf("%d syncs", m.Syncs.Load())
	}
}

func TestOddRequestsAreTheDriversMistake(t *testing.T) {
	for name, bufs := range map[string][]virtiotest.Buf{
		"no answer":    {virtiotest.Out(make([]byte, 4))},
		"no request":   {virtiotest.In(4)},
		"short answer": {virtiotest.Out(make([]byte, 4)), virtiotest.In(3)},
		"long request": {virtiotest.Out(make([]byte, 8)), virtiotest.In(4)},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := start(t, pmem.Options{Path: file(t, memory.HugePageSize)})
			d.Queue(0).Add(bufs...)
			d.Queue(0).Kick()
			d.WaitNeedsReset()
		})
	}
}

func TestFilesThatCannotBe(t *testing.T) {
	odd := file(t, 4096)
	for _, c := range []struct {
		name string
		o    pmem.Options
		want string
	}{
		{"missing", pmem.Options{Path: odd + "x"}, "no such file"},
		{"directory", pmem.Options{Path: filepath.Dir(odd), ReadOnly: true}, "no regular file"},
		{"device", pmem.Options{Path: "/dev/null", ReadOnly: true}, "no regular file"},
		{"empty", pmem.Options{Path: file(t, 0), ReadOnly: true}, "is empty"},
		{"odd size", pmem.Options{Path: odd}, "truncate -s %2M " + odd},
	} {
		if _, err := pmem.New(c.o); !errors.Is(err, pmem.ErrFile) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestAFileThatAnotherVMWritesIsRefused(t *testing.T) {
	path := file(t, memory.HugePageSize)
	one, err := pmem.New(pmem.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pmem.New(pmem.Options{Path: path, ReadOnly: true}); !errors.Is(err, pmem.ErrLocked) {
		t.Errorf("read-only beside a writer: %v", err)
	}
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		d, err := pmem.New(pmem.Options{Path: path, ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
	}
}

func TestAShrunkFileIsNamed(t *testing.T) {
	path := file(t, 3*memory.PageSize)
	_, dev := start(t, pmem.Options{Path: path, ReadOnly: true})
	if err := dev.Lost(); err != nil {
		t.Errorf("of a whole file: %v", err)
	}
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	if err := dev.Lost(); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "shrunk") {
		t.Errorf("of a shrunk one: %v", err)
	}
}

func TestStateOfAnotherFileIsRefused(t *testing.T) {
	_, dev := start(t, pmem.Options{Path: file(t, 4096), ReadOnly: true})
	sec, err := state.Save("p", dev)
	if err != nil {
		t.Fatal(err)
	}
	if err := state.Load(sec, dev); err != nil {
		t.Errorf("its own: %v", err)
	}
	_, other := start(t, pmem.Options{Path: file(t, 4097), ReadOnly: true})
	if err := state.Load(sec, other); !errors.Is(err, virtio.ErrState) {
		t.Errorf("another's: %v", err)
	}
}
