package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/bench/device/probe"
	"github.com/hvctl/hvctl/internal/uring"
)

// disk is the device under test, past the guest's page cache.
type disk struct {
	f    *os.File
	ring *uring.Ring
	size int64
	bufs []uring.Vector // one for each request in flight
	mem  [][]byte
	seed uint64
}

func openDisk(path string) (*disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, err
	}
	d := &disk{f: f, seed: 1}
	if d.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	if d.ring, err = uring.New(64); err != nil {
		return nil, err
	}
	if err := d.ring.RegisterFiles([]int{int(f.Fd())}); err != nil {
		return nil, err
	}
	for _, t := range probe.Tests {
		if int64(t.Size) > d.size {
			return nil, fmt.Errorf("%s has %d bytes, fewer than one request of %s", path, d.size, t.Name)
		}
		for len(d.mem) < t.Depth {
			m, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			if err != nil {
				return nil, err
			}
			d.mem = append(d.mem, m)
		}
	}
	d.bufs = make([]uring.Vector, len(d.mem))
	return d, nil
}

// offset is where the n-th request of t goes. The random ones are the same in
// every guest.
func (d *disk) offset(t probe.Test, n int) int64 {
	places := d.size / int64(t.Size)
	if !t.Random {
		return int64(n) % places * int64(t.Size)
	}
	d.seed = d.seed*6364136223846793005 + 1442695040888963407
	return int64(d.seed>>33) % places * int64(t.Size)
}

// run does the requests of t and returns how long they took.
func (d *disk) run(t probe.Test) (time.Duration, error) {
	idle := make([]uint64, 0, t.Depth)
	for i := range t.Depth {
		d.bufs[i].Set([][]byte{d.mem[i][:t.Size]})
		idle = append(idle, uint64(i))
	}
	start := time.Now()
	for sent, done := 0, 0; done < t.Ops; {
		for sent < t.Ops && len(idle) > 0 {
			slot := idle[len(idle)-1]
			idle = idle[:len(idle)-1]
			if t.Write {
				d.ring.Write(0, &d.bufs[slot], d.offset(t, sent), slot)
			} else {
				d.ring.Read(0, &d.bufs[slot], d.offset(t, sent), slot)
			}
			sent++
		}
		if err := d.ring.Submit(1); err != nil {
			return 0, err
		}
		for {
			c, ok := d.ring.Next()
			if !ok {
				break
			}
			if c.Err() != nil || int(c.Result) != t.Size {
				return 0, fmt.Errorf("a request returned %d: %w", c.Result, c.Err())
			}
			idle = append(idle, c.Data)
			done++
			if t.Sync {
				if err := unix.Fdatasync(int(d.f.Fd())); err != nil {
					return 0, err
				}
			}
		}
	}
	return time.Since(start), nil
}
