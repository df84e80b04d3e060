package workloadtest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
)

// testVerbs: what can be asked of one instance while it runs, and that it says
// so when it does no more. One instance, for to start one may take seconds.
func testVerbs(b *bench) {
	h, first := b.mustStart(func(c *workload.Config) {
		c.OpenStdin = true
		c.Res.CPUWeight = 100
	}, "sh", "-c", `echo up; while read l; do echo "got $l"; done`)
	b.await(h, "up")
	checkAttach(b, h)
	checkTop(b, h)
	checkCopy(b, h)
	checkUpdate(b, h)
	runtime.KeepAlive(first) // its end would close the input
	if err := h.Kill(b.ctx); err != nil {
		b.Fatal(err)
	}
	if _, err := h.Wait(b.ctx); err != nil {
		b.Fatal(err)
	}
	checkEnded(b, h)
	checkEvents(b, h)
}

// checkAttach: a second client reads along and types, and leaves without taking
// the instance with it.
func checkAttach(b *bench, h *launch.Handle) {
	s, err := h.Attach(b.ctx, control.AttachRequest{Stdin: true})
	if err != nil {
		b.Fatal(err)
	}
	in, typed := newPipe()
	out := &watched{want: "got one", seen: s.Detach}
	go func() { _, _ = typed.Write([]byte("one\n")) }() // Copy reads it
	if _, err := s.Copy(in, out, out); !errors.Is(err, control.ErrDetached) {
		b.Errorf("attach ended with %v; it printed %q", err, out.String())
	}
	st, err := h.Instance.State()
	if err != nil {
		b.Fatal(err)
	}
	b.want("status after a client left", st.Status, workload.Running)
}

func checkTop(b *bench, h *launch.Handle) {
	tasks, err := h.Tasks(b.ctx)
	if err != nil {
		b.Fatal(err)
	}
	for _, k := range tasks {
		if strings.HasPrefix(k.Command, "sh -c echo up") && k.PID > 0 && k.State != "" && k.Threads == 1 && k.MemoryBytes > 0 &&
			!k.Started.IsZero() && time.Since(k.Started) < time.Hour {
			return
		}
	}
	b.Errorf("the workload is not in %+v", tasks)
}

// tree is a tar stream of a directory with a file.
func tree(b *bench, name, content string) *bytes.Buffer {
	out := new(bytes.Buffer)
	w := tar.NewWriter(out)
	for _, h := range []tar.Header{
		{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: name + "/f", Typeflag: tar.TypeReg, Mode: 0o640, Size: int64(len(content))},
	} {
		if err := w.WriteHeader(&h); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := w.Write([]byte(content)); err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return out
}

// copyFiles is one copy; it returns what came out, and what was said.
func copyFiles(b *bench, c *control.Client, q control.CopyRequest, in io.Reader) (code int, out, said string) {
	b.Helper()
	s, err := c.Copy(b.ctx, q)
	if err != nil {
		b.Fatal(err)
	}
	var o, e bytes.Buffer
	exit, err := s.Copy(in, &o, &e)
	if err != nil {
		b.Fatal(err)
	}
	return exit.Code, o.String(), e.String()
}

func checkCopy(b *bench, h *launch.Handle) {
	// Of a name of its own: the fake's files are the host's.
	dir := "/tmp/hvctl-suite-" + h.ID()[:12]
	b.Cleanup(func() {
		if h.Backend.Name() == "fake" {
			_ = os.RemoveAll(dir)
		}
	})
	content := strings.Repeat("0123456789abcdef", 1<<14)
	code, _, said := copyFiles(b, h.Client, control.CopyRequest{Path: dir, In: true}, tree(b, "any", content))
	if code != 0 {
		b.Fatalf("copied in: %d, %s", code, said)
	}
	code, out := b.exec(h, "wc -c <"+dir+"/f")
	b.want("wc's exit code", code, 0)
	b.want("size inside", strings.TrimSpace(out), "262144")
	code, out, said = copyFiles(b, h.Client, control.CopyRequest{Path: dir + "/f"}, nil)
	if code != 0 {
		b.Fatalf("copied out: %d, %s", code, said)
	}
	r := tar.NewReader(strings.NewReader(out))
	hdr, err := r.Next()
	if err != nil || hdr.Name != "f" || hdr.Mode != 0o640 {
		b.Fatalf("the stream begins with %+v, %v", hdr, err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != content {
		b.Errorf("%d bytes came back of %d, or others (%v)", len(got), len(content), err)
	}
	code, _, said = copyFiles(b, h.Client, control.CopyRequest{Path: dir + "/none"}, nil)
	if code == 0 || !strings.Contains(said, dir+"/none: no such file") {
		b.Errorf("a missing file: %d, %q", code, said)
	}
	code, _, said = copyFiles(b, h.Client, control.CopyRequest{Path: dir, In: true}, strings.NewReader("no tar stream"))
	if code == 0 || !strings.Contains(said, "tar stream") {
		b.Errorf("no tar stream: %d, %q", code, said)
	}
}

func checkUpdate(b *bench, h *launch.Handle) {
	err := h.Update(b.ctx, workload.Update{CPUWeight: new(uint64(50))})
	if errors.Is(err, workload.ErrUnsupported) && h.Backend.Name() == "fake" {
		return // its owners are in no cgroup
	}
	if err != nil {
		b.Fatal(err)
	}
	st, err := h.Instance.State()
	if err != nil || st.Limits == nil {
		b.Fatalf("%+v, %v", st, err)
	}
	b.want("recorded weight", st.Limits.CPUWeight, uint64(50))
	if err := h.Update(b.ctx, workload.Update{}); !errors.Is(err, control.ErrBadRequest) {
		b.Errorf("an update of nothing: %v", err)
	}
}

func checkEvents(b *bench, h *launch.Handle) {
	var seen []string
	err := b.store.ReadEvents(context.Background(), false, nil, func(line []byte) error {
		if bytes.Contains(line, []byte(h.ID())) {
			_, rest, _ := bytes.Cut(line, []byte(`"type":"`))
			typ, _, _ := bytes.Cut(rest, []byte(`"`))
			seen = append(seen, string(typ))
		}
		return nil
	})
	if err != nil || len(seen) < 2 || seen[0] != control.EventStart || seen[len(seen)-1] != control.EventExit || !slices.Contains(seen, control.EventSignal) {
		b.Errorf("events %v, %v", seen, err)
	}
}

// checkEnded: what needs a running instance says that there is none.
func checkEnded(b *bench, h *launch.Handle) {
	for name, call := range map[string]func() error{
		"top":    func() error { _, err := h.Tasks(b.ctx); return err },
		"cp":     func() error { _, err := h.Copy(b.ctx, control.CopyRequest{Path: "/"}); return err },
		"exec":   func() error { _, err := h.Exec(b.ctx, control.ExecRequest{Process: shell("true")}); return err },
		"stats":  func() error { _, err := h.Stats(b.ctx); return err },
		"pause":  func() error { return h.Pause(b.ctx) },
		"update": func() error { return h.Update(b.ctx, workload.Update{CPUWeight: new(uint64(50))}) },
		"attach": func() error { _, err := h.Attach(b.ctx, control.AttachRequest{}); return err },
	} {
		if err := call(); !errors.Is(err, workload.ErrNotRunning) {
			b.Errorf("%s: %v, want %v", name, err, workload.ErrNotRunning)
		}
	}
}
