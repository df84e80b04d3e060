package inside

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"

	"github.com/hvctl/hvctl/internal/hostnet"
	"github.com/hvctl/hvctl/internal/microvm"
	"github.com/hvctl/hvctl/internal/ocivm"
	"github.com/hvctl/hvctl/internal/ocivm/config"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// Own runs the VM and returns its first process's exit code. Our standard
// streams are that process's.
func Own(ctx context.Context) (int, error) {
	return own(func(vm *microvm.VM, cfg *config.Config, exec *server, log *slog.Logger) (int, error) {
		return run(ctx, vm, cfg, exec, log)
	})
}

// own makes the VM that was asked for, and frees it when run is done with it.
func own(run func(*microvm.VM, *config.Config, *server, *slog.Logger) (int, error)) (int, error) {
	cfg, err := readConfig()
	if err != nil {
		return workload.ExitOwnFailure, err
	}
	state := fdPath(ocivm.FDState)
	log, err := newLog(state + "/vmm.log")
	if err != nil {
		return workload.ExitOwnFailure, err
	}
	exec, err := listener(ocivm.FDExec)
	if err != nil {
		return workload.ExitOwnFailure, err
	}
	host := microvm.Host{KVM: os.NewFile(ocivm.FDKVM, "/dev/kvm")}
	if cfg.Adopt {
		if host.Net, err = hostnet.Adopt(os.NewFile(ocivm.FDTun, "/dev/net/tun")); err != nil {
			return workload.ExitOwnFailure, err
		}
	}
	cfg.Net.Mode = workload.NetNone // whatever is there was adopted
	vm := microvm.NewInside(&cfg.Config, state, log, host)
	code, err := run(vm, cfg, exec, log)
	if cerr := vm.Close(); cerr != nil {
		log.Warn("cleaning up", "err", cerr)
	}
	return code, err
}

// run starts the first process and accompanies it to its end.
func run(ctx context.Context, vm *microvm.VM, cfg *config.Config, exec *server, log *slog.Logger) (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	tty, err := newTerminal(cfg.Spec.Process.Terminal, os.Stdin)
	if err != nil {
		return workload.ExitOwnFailure, err
	}
	defer tty.restore()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	early := make(chan struct{})
	go endEarly(signals, early, cancel)
	p, err := vm.Start(ctx, workload.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	close(early)
	if err != nil {
		return codeOf(err), err
	}
	tty.follow(p)
	exec.serve(host{VM: vm}, log)
	go forward(signals, p, tty, log)
	exit, err := p.Wait(context.WithoutCancel(ctx))
	if err == nil && exit.Err != "" {
		err = fmt.Errorf("%s", exit.Err)
	}
	return exit.Code, err
}

// endEarly gives the start up when a signal asks for the end before there is a
// process to send it to.
func endEarly(signals <-chan os.Signal, over <-chan struct{}, cancel context.CancelCauseFunc) {
	for {
		select {
		case <-over:
			return
		case sig := <-signals:
			if n, ok := sig.(unix.Signal); ok && (n == unix.SIGTERM || n == unix.SIGINT || n == unix.SIGQUIT || n == unix.SIGHUP) {
				cancel(&workload.StartError{Code: workload.SignalExitCode(int(n)), Err: fmt.Errorf("ended by %v while the guest booted", n)})
				return
			}
		}
	}
}

// forward passes on what signals the container is sent.
func forward(signals <-chan os.Signal, p workload.Process, tty *terminal, log *slog.Logger) {
	for sig := range signals {
		n, ok := sig.(unix.Signal)
		switch {
		case !ok || n == unix.SIGCHLD || n == unix.SIGURG || n == unix.SIGPIPE:
		case n == unix.SIGWINCH && tty.on:
			tty.follow(p)
		default:
			if err := p.Signal(context.Background(), n); err != nil {
				log.Info("signal", "signal", n, "err", err)
			}
		}
	}
}

func codeOf(err error) int {
	if se, ok := err.(*workload.StartError); ok { //nolint:errorlint // what Start returns is not wrapped
		return se.Code
	}
	return workload.ExitOwnFailure
}

// readConfig reads what hvctl-oci left, and says where its files are here.
func readConfig() (*config.Config, error) {
	f := os.NewFile(ocivm.FDConfig, "configuration")
	defer f.Close()
	cfg := new(config.Config)
	if err := json.NewDecoder(io.LimitReader(f, ocivm.MaxConfig)).Decode(cfg); err != nil {
		return nil, fmt.Errorf("configuration (descriptor %d; hvctl-vmm %s is run by hvctl-oci-vm, not by hand): %w", ocivm.FDConfig, ocivm.VerbOwn, err)
	}
	cfg.VM.Kernel, cfg.VM.Initrd, cfg.VM.KernelCache = fdPath(ocivm.FDKernel), fdPath(ocivm.FDInitrd), fdPath(ocivm.FDCache)
	cfg.Rootfs = workload.Rootfs{Dir: "/", ReadOnly: cfg.Rootfs.ReadOnly}
	return cfg, nil
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func newLog(path string) (*slog.Logger, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return slog.New(slog.NewTextHandler(f, nil)), nil
}
