package kvm

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// spinning starts a vCPU that counts in memory at 0x7000 for ever, on a thread
// of its own, and returns that thread and a channel with the result of Run.
func spinning(t *testing.T, g *guest) (tid int, result <-chan ExitReason, errs <-chan error) {
	t.Helper()
	g.userMode()
	g.code(
		0xff, 0x04, 0x25, 0x00, 0x70, 0, 0, // inc dword [0x7000]
		0xeb, 0xf7, // jmp back
	)
	tids, reasons, failed := make(chan int), make(chan ExitReason, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tids <- unix.Gettid()
		for {
			r, err := g.vcpu.Run()
			// Go's own signals may come before the kick.
			if err == nil && r == ExitIntr && !g.vcpu.ImmediateExit() && !closed(&g.vcpu.fd) {
				continue
			}
			reasons <- r
			failed <- err
			return
		}
	}()
	tid = <-tids
	waitUntil(t, "the guest counts", func() bool { return g.mem[0x7000] != 0 })
	return tid, reasons, failed
}

func closed(f *fd) bool { return f.state.Load()&fdClosed != 0 }

// waitUntil polls a condition of another thread, or of a guest, that cannot
// signal.
func waitUntil(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 1_000_000 {
		if cond() {
			return
		}
		runtime.Gosched()
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 10_000}, nil)
	}
	t.Fatalf("gave up waiting until %s", what)
}

func TestKickEndsASpinningGuest(t *testing.T) {
	g := newGuest(t, guestOptions{memory: 2 << 20})
	tid, reason, errs := spinning(t, g)
	g.vcpu.SetImmediateExit(true)
	g.ok(unix.Tgkill(os.Getpid(), tid, unix.SIGURG))
	if r, err := <-reason, <-errs; r != ExitIntr || err != nil {
		t.Errorf("Run: %v, %v; want intr", r, err)
	}
}

func TestCloseUnderARunningGuest(t *testing.T) {
	g := newGuest(t, guestOptions{memory: 2 << 20})
	n := g.vcpu.fd.n
	tid, reason, errs := spinning(t, g)
	g.ok(g.vcpu.Close())
	if !isOpen(n) {
		t.Error("the descriptor is closed under KVM_RUN")
	}
	g.vcpu.SetImmediateExit(true) // does nothing now, and must not crash
	g.ok(unix.Tgkill(os.Getpid(), tid, unix.SIGURG))
	r, err := <-reason, <-errs
	if r != ExitIntr || err != nil {
		t.Errorf("Run: %v, %v; want intr", r, err)
	}
	if isOpen(n) {
		t.Error("the descriptor is open after the last Run")
	}
}
