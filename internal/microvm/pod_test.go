package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/agent"
	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/virtio/fs"
)

// onePipe is a guest that connects once.
type onePipe chan net.Conn

func (p onePipe) AcceptControl(ctx context.Context) (net.Conn, error) {
	select {
	case c := <-p:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (onePipe) AcceptStream(ctx context.Context) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// podOf is a pod whose guest answers requests by answer, which may wait: "" is
// success, "-" none at all, and anything else an error.
func podOf(t *testing.T, answer func(method string) string) *Pod {
	t.Helper()
	v := New(&workload.Config{ID: "pod"}, t.TempDir(), slog.New(slog.DiscardHandler))
	pipe := make(onePipe, 1)
	host, guest := net.Pipe()
	pipe <- host
	g := v.newGuest(agent.New(pipe, agent.Options{}))
	v.endTimeout = time.Hour
	go func() { _ = g.session.Serve(g.ctx) }()
	f := guestproto.NewFramer(guest)
	go func() {
		_ = f.Send(fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"hello","params":{"version":%d,"kernel":"6.1.0"}}`, guestproto.Version))
		for {
			msg, err := f.Recv()
			if err != nil {
				return
			}
			var r struct {
				ID     json.RawMessage `json:"id"`
				Method string          `json:"method"`
			}
			if json.Unmarshal(msg, &r) != nil || r.Method == "" {
				continue
			}
			go func() {
				switch why := answer(r.Method); why {
				case "-":
				case "":
					_ = f.Send(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":{"pid":5}}`, r.ID))
				default:
					_ = f.Send(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":%q}}`, r.ID, guestproto.CodeState, why))
				}
			}()
		}
	}()
	p := NewPod(v)
	p.guest = g
	var err error
	if v.podFS, err = fs.NewAttachable(rootSerial); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(g.ended)
		g.stop(errClosed)
		f.Close()
		v.podFS.Close()
	})
	return p
}

// member is a container whose root is a directory of the test's.
func member(t *testing.T, id string) PodMember {
	t.Helper()
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return PodMember{ID: id, Spec: &specs.Spec{Process: &specs.Process{Args: []string{"true"}, Cwd: "/"}}, Root: root}
}

// TestAGuestThatDoesNotAnswerKeepsNoContainer: its root is taken away, and its
// name is free.
func TestAGuestThatDoesNotAnswerKeepsNoContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := podOf(t, func(method string) string {
			if method == guestproto.MethodRemove {
				return "-"
			}
			return ""
		})
		m := member(t, "a")
		first, err := p.Add(t.Context(), m, workload.Stdio{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Add(t.Context(), m, workload.Stdio{}); err == nil {
			t.Error("a name was taken twice")
		}
		began := time.Now()
		if err := p.Remove("a"); err == nil {
			t.Error("a guest that says nothing has removed it")
		}
		if waited := time.Since(began); waited > removeTimeout {
			t.Errorf("it took %v", waited)
		}
		if err := p.podFS.Attach(first.id, m.Root); err != nil {
			t.Errorf("the root is still the guest's: %v", err)
		}
		if _, err := p.Add(t.Context(), m, workload.Stdio{}); err != nil {
			t.Error(err)
		}
	})
}

// TestAContainerRemovedWhileItStartsDoesNotStay: the guest is told to remove what
// it knows nothing of yet, and then it starts it.
func TestAContainerRemovedWhileItStartsDoesNotStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		creating, create := make(chan struct{}), make(chan struct{})
		there, removed := false, 0 // of the guest, one request after the other
		p := podOf(t, func(method string) string {
			switch method {
			case guestproto.MethodCreate:
				close(creating)
				<-create
				there = true
			case guestproto.MethodRemove:
				removed++
				if !there {
					return "no such container"
				}
				there = false
			}
			return ""
		})
		added := make(chan error, 1)
		go func() {
			_, err := p.Add(t.Context(), member(t, "a"), workload.Stdio{})
			added <- err
		}()
		<-creating
		if err := p.Remove("a"); !errors.Is(err, agent.ErrState) {
			t.Errorf("removed too early: %v", err)
		}
		close(create)
		if err := <-added; err == nil {
			t.Error("it was removed, and it runs")
		}
		if there || removed != 2 {
			t.Errorf("left in the guest: %v; told %d times", there, removed)
		}
	})
}
