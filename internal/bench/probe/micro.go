package probe

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func microProbes() []Probe {
	return []Probe{
		{Name: "syscall", Chapter: "micro", Follows: "lmbench lat_syscall null", open: openSyscall},
		{Name: "clock", Chapter: "micro", open: openClock},
		{Name: "pagefault", Chapter: "micro", Follows: "lmbench lat_pagefault", open: openPageFault},
		{Name: "switch-proc", Chapter: "micro", Follows: "lmbench lat_ctx", open: openSwitchProcess},
		{Name: "switch-thread", Chapter: "micro", Follows: "lmbench lat_ctx", open: openSwitchThread},
		{Name: "pipe", Chapter: "micro", Follows: "lmbench lat_pipe", open: openPipe},
		{Name: "futex", Chapter: "micro", Follows: "perf bench futex", open: openFutex},
		{Name: "call", Chapter: "micro", open: openCall},
		{Name: "rpc-unix", Chapter: "micro", open: openRPCUnix},
		{Name: "rpc-tcp", Chapter: "micro", open: func(string) (*bench, error) { return openEcho(rpcSize) }},
	}
}

func nothing() {}

func openSyscall(string) (*bench, error) {
	return timed(func(n int) error {
		for range n {
			_, _, _ = syscall.RawSyscall(syscall.SYS_GETPPID, 0, 0, 0)
		}
		return nil
	}, nothing), nil
}

func openClock(string) (*bench, error) {
	return timed(func(n int) error {
		for range n {
			_ = time.Now()
		}
		return nil
	}, nothing), nil
}

// faultPages is how much is mapped at once for pagefault.
const faultPages = 1024

func openPageFault(string) (*bench, error) {
	return timed(func(n int) error {
		for n > 0 {
			pages := min(n, faultPages)
			mem, err := anonymous(pages*4096, unix.MADV_NOHUGEPAGE)
			if err != nil {
				return err
			}
			touch(mem)
			if err := unix.Munmap(mem); err != nil {
				return os.NewSyscallError("munmap", err)
			}
			n -= pages
		}
		return nil
	}, nothing), nil
}

// runnable is how many take turns in the switch probes.
const runnable = 20

// onOneCPU binds this thread, and what it makes, to the first processor that it
// may use, and returns how to undo that.
func onOneCPU() (func(), error) {
	var old, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		return nil, os.NewSyscallError("sched_getaffinity", err)
	}
	for cpu := range 1024 {
		if old.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return nil, os.NewSyscallError("sched_setaffinity", err)
	}
	return func() { _ = unix.SchedSetaffinity(0, &old) }, nil
}

// turnsEach is how often each of them yields: so often that what else happens
// from the first turn to the last, each one's start and rest, is little beside it.
func turnsEach(n int) int { return max(50, n/runnable) }

// openSwitchProcess lets 20 processes yield to each other: from the moment when
// all are there and are told, until all have yielded. They end later. What counts
// is not how often they yield but how often the kernel says that it switched.
func openSwitchProcess(string) (*bench, error) {
	undo, err := onOneCPU()
	if err != nil {
		return nil, err
	}
	return &bench{close: undo, run: func(n int) (done int, took time.Duration, err error) {
		w, err := newSharedWords()
		if err != nil {
			return 0, 0, err
		}
		defer func() { _ = unix.Munmap(w.mem) }()
		var pids []int
		defer func() {
			tellAll(w.a, 2, runnable)
			for _, pid := range pids {
				err = errors.Join(err, reap(pid))
			}
		}()
		for range runnable {
			pid, e := rawFork()
			if e != 0 {
				return 0, 0, os.NewSyscallError("clone", e)
			}
			if pid == 0 {
				yieldChild(w, turnsEach(n))
			}
			pids = append(pids, pid)
		}
		begin := time.Now()
		tellAll(w.a, 1, runnable)
		await(w.b, runnable)
		return int(loadWord(w.c)), time.Since(begin), nil
	}}, nil
}

// yieldChild is a forked child: it waits for the start, yields, adds how often it
// was switched, and waits for the end.
//
//go:nosplit
//go:norace
func yieldChild(w *sharedWords, yields int) {
	for loadWord(w.a) == 0 {
		_ = futexWait(w.a, 0)
	}
	before := rawSwitches()
	for range yields {
		_, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
	}
	atomic.AddUint32(w.c, rawSwitches()-before)
	if atomic.AddUint32(w.b, 1) == runnable {
		futexWake(w.b, 1)
	}
	await(w.a, 2)
	rawExit(0)
}

// openSwitchThread is the same with threads.
func openSwitchThread(string) (*bench, error) {
	undo, err := onOneCPU()
	if err != nil {
		return nil, err
	}
	t, err := newThreads(runnable)
	if err != nil {
		undo()
		return nil, err
	}
	return &bench{close: func() { t.close(); undo() }, run: func(n int) (done int, took time.Duration, err error) {
		restore, err := blockSignals()
		if err != nil {
			return 0, 0, err
		}
		defer restore()
		started := 0
		defer func() {
			tellAll(t.gate(), 2, runnable)
			for i := range started {
				err = errors.Join(err, t.join(i)) // a thread that runs keeps its stack: the process ends soon
			}
		}()
		t.reset()
		for i := range runnable {
			if err := t.start(i, t.gate(), turnsEach(n)); err != nil {
				return 0, 0, err
			}
			started++
		}
		before, err := switches()
		if err != nil {
			return 0, 0, err
		}
		begin := time.Now()
		tellAll(t.gate(), 1, runnable)
		await(t.ready(), runnable)
		took = time.Since(begin)
		after, err := switches()
		return after - before, took, err
	}}, nil
}

// switches counts those of this process, all its threads'.
func switches() (int, error) {
	var ru unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &ru)
	return int(ru.Nvcsw + ru.Nivcsw), os.NewSyscallError("getrusage", err)
}

// openPipe sends a byte to a child and back.
func openPipe(string) (*bench, error) {
	var there, back [2]int
	if err := unix.Pipe2(there[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe", err)
	}
	if err := unix.Pipe2(back[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe", err)
	}
	return echo(1, there[0], back[1], there[1], back[0])
}

// echo forks a child that echoes from childIn to childOut, and is a bench of
// messages of size bytes to it and back.
func echo(size, childIn, childOut, out, in int) (*bench, error) {
	buf := make([]byte, size)
	pid, e := rawFork()
	if e != 0 {
		return nil, os.NewSyscallError("clone", e)
	}
	if pid == 0 {
		closeRaw(out)
		if in != out {
			closeRaw(in)
		}
		rawEcho(childIn, childOut, buf)
		rawExit(0)
	}
	_ = unix.Close(childIn)
	if childOut != childIn {
		_ = unix.Close(childOut)
	}
	return timed(func(n int) error {
		for range n {
			if err := exchange(out, in, buf); err != nil {
				return err
			}
		}
		return nil
	}, func() {
		_ = unix.Close(out)
		if in != out {
			_ = unix.Close(in)
		}
		_ = reap(pid)
	}), nil
}

//go:nosplit
//go:norace
func closeRaw(fd int) { _, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }

// exchange sends buf and reads as much.
func exchange(out, in int, buf []byte) error {
	if _, e := rawWrite(out, buf); e != 0 {
		return os.NewSyscallError("write", e)
	}
	for have := 0; have < len(buf); {
		n, e := rawRead(in, buf[have:])
		if e == syscall.EINTR {
			continue
		}
		if e != 0 || n == 0 {
			return os.NewSyscallError("read", e)
		}
		have += n
	}
	return nil
}

// openFutex hands a turn to a child and back.
func openFutex(string) (*bench, error) {
	w, err := newSharedWords()
	if err != nil {
		return nil, err
	}
	pid, e := rawFork()
	if e != 0 {
		return nil, os.NewSyscallError("clone", e)
	}
	if pid == 0 {
		turns(w)
		rawExit(0)
	}
	return timed(func(n int) error {
		for range n {
			tell(w.a, 1)
			await(w.b, 1)
			tell(w.a, 0)
			await(w.b, 0)
		}
		return nil
	}, func() {
		tell(w.a, 2)
		_ = reap(pid)
		_ = unix.Munmap(w.mem)
	}), nil
}

// turns follows a with b until a is 2.
//
//go:nosplit
//go:norace
func turns(w *sharedWords) {
	for {
		v := loadWord(w.a)
		switch {
		case v == 2:
			return
		case v != loadWord(w.b):
			tell(w.b, v)
		default:
			_ = futexWait(w.a, v)
		}
	}
}

// rpcSize is what the null RPC carries each way.
const rpcSize = 100

//go:noinline
func localCall(in *[rpcSize]byte) (out [rpcSize]byte) { return *in }

func openCall(string) (*bench, error) {
	return timed(func(n int) error {
		var v [rpcSize]byte
		for range n {
			v = localCall(&v)
		}
		return nil
	}, nothing), nil
}

func openRPCUnix(string) (*bench, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	return echo(rpcSize, fds[1], fds[1], fds[0], fds[0])
}
