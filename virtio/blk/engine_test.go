package blk_test

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/testenv"
	"github.com/hvctl/hvctl/internal/uring"
	"github.com/hvctl/hvctl/virtio"
	"github.com/hvctl/hvctl/virtio/blk"
	"github.com/hvctl/hvctl/virtio/virtiotest"
)

// defaults is what newDisk takes where a test says nothing.
var defaults blk.Options

// needURing skips where the host has no io_uring, which the device has to bear.
func needURing(t testing.TB) {
	t.Helper()
	testenv.Require(t, testenv.URing)
	r, err := uring.New(1)
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
}

// variants are all ways to serve a disk but the one that newDisk uses anyway.
var variants = map[string]blk.Options{
	"plain":           {Engine: blk.EnginePlain},
	"uring, direct":   {Engine: blk.EngineURing, Cache: blk.CacheNone},
	"plain, direct":   {Engine: blk.EnginePlain, Cache: blk.CacheNone},
	"uring, 3 queues": {Engine: blk.EngineURing, Queues: 3},
}

func TestEveryVariantDoesWhatThePlainOneDoes(t *testing.T) {
	needURing(t)
	for name, o := range variants {
		t.Run(name, func(t *testing.T) {
			defaults = o
			defer func() { defaults = blk.Options{} }()
			for name, f := range map[string]func(*testing.T){
				"reads and writes": TestReadsAndWrites, "framing": TestAnyFraming, "many buffers": TestVeryManyBuffers,
				"identity": TestIdentity, "impossible requests": TestRequestsThatCannotBe, "empty requests": TestEmptyRequests,
				"no requests": TestChainsThatAreNoRequests, "read-only": TestReadOnlyDisk, "discard": TestDiscardAndWriteZeroes,
				"without flush": TestDurabilityWithoutFlush, "dirty": TestReadMarksDirty,
			} {
				t.Run(name, f)
			}
		})
	}
}

func variantSuite(values map[string]string) virtiotest.Suite {
	s := suite
	s.MakeArgs = func(t testing.TB) virtio.Args {
		a := suite.MakeArgs(t)
		maps.Copy(a.Values, values)
		return a
	}
	return s
}

func TestSuiteWithURing(t *testing.T) {
	needURing(t)
	variantSuite(map[string]string{"engine": "uring", "cache": "none", "queues": "2"}).Run(t)
}

func FuzzURing(f *testing.F) {
	needURing(f)
	variantSuite(map[string]string{"engine": "uring", "queues": "2"}).Fuzz(f)
}

// Many requests at once, in every queue, over pauses: each byte is where the
// last write that the driver waited for put it.
func TestRequestsInTheAirSurvivePausesAndRestores(t *testing.T) {
	needURing(t)
	for name, o := range variants {
		t.Run(name, func(t *testing.T) {
			k := newDisk(t, o, virtiotest.Options{})
			rnd := rand.New(rand.NewPCG(1, 2))
			for round := range 20 {
				type write struct {
					queue, sector int
					data          []byte
				}
				pending := make([]int, k.d.NumQueues())
				for _, at := range rnd.Perm(sectors / 8)[:60] {
					w := write{rnd.IntN(k.d.NumQueues()), at * 8, bytes.Repeat([]byte{byte(rnd.Uint32())}, 8*512)}
					if pending[w.queue] == 40 {
						continue
					}
					copy(k.want[w.sector*512:], w.data)
					q := k.d.Queue(w.queue)
					q.Add(virtiotest.Out(header(typeOut, uint64(w.sector))), virtiotest.Out(w.data), virtiotest.In(1))
					pending[w.queue]++
					q.Kick()
				}
				if round%4 == 1 {
					k.d.Stop()
					k.d.Resume()
				}
				for i, n := range pending {
					for range n {
						if u := k.d.Queue(i).Wait(); u.In[0] != ok {
							t.Fatalf("round %d: status %d", round, u.In[0])
						}
					}
				}
			}
			k.check()
		})
	}
}

func TestQueuesAreOffered(t *testing.T) {
	k := newDisk(t, blk.Options{Queues: 3}, virtiotest.Options{})
	if c := k.d.Config(34, 2); c[0] != 3 || k.d.NumQueues() != 3 {
		t.Errorf("num_queues %v, %d queues", c, k.d.NumQueues())
	}
}

// A limited disk makes its driver wait, and nobody else: it pauses at once.
func TestLimitsHoldTheDriverOnly(t *testing.T) {
	k := newDisk(t, blk.Options{Limits: blk.Limits{IOPS: 1}}, virtiotest.Options{})
	q := k.d.Queue(0)
	for range 3 {
		q.Add(virtiotest.Out(header(typeGetID, 0)), virtiotest.In(20), virtiotest.In(1))
	}
	start := time.Now()
	q.Kick()
	if u := q.Wait(); u.In[20] != ok {
		t.Errorf("status %d", u.In[20])
	}
	k.d.Eventually("the second request to wait", func() bool { return k.metrics().Throttled.Load() > 0 })
	k.d.Stop()
	k.d.Resume()
	if took := time.Since(start); took > time.Second {
		t.Errorf("a pause took %v: it waited for the limit", took)
	}
	if _, ok := q.TryWait(); ok {
		t.Error("the second request of a disk with one a second came at once")
	}
	if err := k.dev.SetLimits(blk.Limits{}); err != nil { // and who waits hears of it
		t.Fatal(err)
	}
	for range 2 {
		if u := q.Wait(); u.In[20] != ok {
			t.Errorf("status %d", u.In[20])
		}
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Logf("took %v", took) // a busy machine
	}
}

// A request larger than a second's worth passes, and is paid back.
func TestLimitsLetLargeRequestsPass(t *testing.T) {
	k := newDisk(t, blk.Options{Limits: blk.Limits{BPS: 1 << 20}}, virtiotest.Options{})
	start := time.Now()
	if st, _, _ := k.request(typeIn, 0, virtiotest.In(512<<10)); st != ok { // half a second's worth
		t.Errorf("status %d", st)
	}
	if st, _, _ := k.request(typeIn, 0, virtiotest.In(512)); st != ok {
		t.Errorf("status %d", st)
	}
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("two requests of 513 KiB took %v at 1 MiB/s with a tenth of a second saved up", took)
	}
}

func TestResizeGrowsAndTells(t *testing.T) {
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	if st, _, _ := k.request(typeIn, sectors, virtiotest.In(512)); st != ioErr {
		t.Errorf("read past the end: status %d", st)
	}
	seen := k.d.Link.ConfigInterrupts()
	if err := k.dev.Resize((sectors + 8) * 512); err != nil {
		t.Fatal(err)
	}
	k.d.WaitConfigInterrupt(seen)
	if c := k.d.Config(0, 2); int(c[0])|int(c[1])<<8 != sectors+8 {
		t.Errorf("capacity %v", c)
	}
	if st, in, _ := k.request(typeIn, sectors+7, virtiotest.In(512)); st != ok || !bytes.Equal(in, make([]byte, 512)) {
		t.Errorf("read of the new end: status %d", st)
	}
	if err := os.Truncate(k.path, (sectors+16)*512); err != nil {
		t.Fatal(err)
	}
	if err := k.dev.Resize(0); err != nil || k.dev.Size() != (sectors+16)*512 {
		t.Errorf("size %d, %v", k.dev.Size(), err)
	}
}

func TestResizesThatCannotBe(t *testing.T) {
	k := newDisk(t, blk.Options{}, virtiotest.Options{})
	for name, n := range map[string]uint64{"smaller": 512, "half a sector": sectors*512 + 1, "beyond all": 1 << 63} {
		if err := k.dev.Resize(n); !errors.Is(err, blk.ErrResize) {
			t.Errorf("%s: %v", name, err)
		}
	}
	k.dev.StartWriteLog()
	if err := k.dev.Resize(sectors * 1024); !errors.Is(err, blk.ErrResize) {
		t.Errorf("while changes are followed: %v", err)
	}
	if k.dev.Size() != sectors*512 {
		t.Errorf("the size is %d", k.dev.Size())
	}
	path, _ := imageFile(t, 4096)
	ro, err := blk.New(blk.Options{Path: path, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if err := ro.Resize(8192); !errors.Is(err, blk.ErrResize) {
		t.Errorf("read-only: %v", err)
	}
}

func TestDirectIONeedsAFileSystemThatHasIt(t *testing.T) {
	f, err := os.CreateTemp("/dev/shm", "blk")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	fd, direct := unix.Open(f.Name(), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0) // tmpfs can since Linux 6.6
	if direct == nil {
		_ = unix.Close(fd)
	}
	d, err := blk.New(blk.Options{Path: f.Name(), Cache: blk.CacheNone})
	if err == nil {
		_ = d.Close()
	}
	if (err == nil) != (direct == nil) {
		t.Errorf("cache=none: %v; the kernel: %v", err, direct)
	}
	if err != nil && (!errors.Is(err, blk.ErrImage) || !strings.Contains(err.Error(), "cache=writeback")) {
		t.Errorf("%v", err)
	}
}
