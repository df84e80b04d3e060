package inside

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/hvctl/hvctl/internal/microvm"
	"github.com/hvctl/hvctl/internal/ocivm"
	"github.com/hvctl/hvctl/internal/ocivm/config"
	"github.com/hvctl/hvctl/internal/workload"
	"golang.org/x/sys/unix"
)

// OwnPod runs a pod's VM until a signal asks for its end.
func OwnPod(ctx context.Context) (int, error) {
	return own(func(vm *microvm.VM, _ *config.Config, exec *server, log *slog.Logger) (int, error) {
		return runPod(ctx, microvm.NewPod(vm), exec, log)
	})
}

func runPod(ctx context.Context, pod *microvm.Pod, exec *server, log *slog.Logger) (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	early := make(chan struct{})
	go endEarly(signals, early, cancel)
	err := pod.Start(ctx)
	close(early)
	if err != nil {
		log.Error("the pod's VM did not start", "err", err)
		return codeOf(err), err
	}
	exec.serve(host{pod.VM, pod}, log)
	select {
	case <-pod.Ended():
		err := errors.New("the pod's VM has ended by itself; its console.log may say why")
		log.Error("ended", "err", err)
		return workload.SignalExitCode(int(unix.SIGKILL)), err
	case s := <-signals:
		log.Info("ending", "signal", s)
	case <-ctx.Done(): // by a signal at the last moment of the start
	}
	ctx, over := context.WithTimeout(context.Background(), shutdownTimeout)
	defer over()
	if err := pod.Shutdown(ctx); err != nil {
		log.Warn("the guest did not take the word to end", "err", err)
	}
	return 0, nil // Close waits for the guest, and then does not
}

// shutdownTimeout is how long a guest may take to say that it will end.
const shutdownTimeout = 5 * time.Second

// join runs a member's first process, which is a *microvm.Member.
func (h host) join(ctx context.Context, r *ocivm.Request, io workload.Stdio, more []*os.File) (workload.Process, error) {
	if len(more) != 1 {
		return nil, errors.New("join: no root directory came")
	}
	var m config.Member
	if err := json.Unmarshal(r.Join, &m); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	if m.Spec == nil || m.Spec.Process == nil {
		return nil, errors.New("join: no process")
	}
	c, err := h.pod.Add(ctx, microvm.PodMember{ID: r.Container, Spec: m.Spec, Root: more[0], Limits: m.Limits, SharePIDs: m.SharePIDs}, io)
	if err != nil {
		return nil, err
	}
	return c, nil
}
