package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/workload"
)

// The fake's files are the host's, so that INSTANCE:PATH is PATH here.
func TestCp(t *testing.T) {
	w := newWorld(t)
	w.must("run", "-d", "--name", "box", "host", "sleep", "1000")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name, want string) {
		t.Helper()
		if b, err := os.ReadFile(at(name)); err != nil || string(b) != want {
			t.Errorf("%s has %q (%v), want %q", name, b, err, want)
		}
	}
	write("src/f", "1")
	write("src/sub/g", "2")
	w.must("cp", at("src"), "box:"+at("in"))
	read("in/sub/g", "2")
	w.must("cp", "box:"+at("in")+"/.", at("out"))
	read("out/f", "1")
	w.must("cp", "box:"+at("in/f"), at("g"))
	read("g", "1")
	w.must("cp", "-a", "box:"+at("src"), "box:"+at("twice"))
	read("twice/sub/g", "2")

	tar := w.must("cp", "box:"+at("src"), "-")
	if err := os.Mkdir(at("untar"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := w.hv("cp", "-", "box:"+at("untar")).stdin(tar)
	if c.run() != 0 {
		t.Fatal(c.err.String())
	}
	read("untar/src/sub/g", "2")

	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"both here", []string{at("src"), at("x")}, "INSTANCE:PATH"},
		{"one argument", []string{"box:/x"}, "want a source and a destination"},
		{"no such file here", []string{at("none"), "box:" + at("x")}, "no such file"},
		{"no such file there", []string{"box:" + at("none"), at("x")}, "box: open " + at("none")},
		{"no such directory there", []string{at("src/f"), "box:" + at("none") + "/"}, "no such directory"},
		{"directory over a file", []string{at("src"), "box:" + at("g")}, "is not a directory"},
		{"no such instance", []string{"nobody:/x", at("x")}, "nobody"},
		{"no path", []string{"box:", at("x")}, "no path given"},
		{"no tar stream", []string{"-", "box:" + at("untar")}, "tar stream"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := w.hv(append([]string{"cp"}, c.args...)...).stdin("this is no tar stream, whatever it may be worth" + strings.Repeat("x", 1024))
			if code := x.run(); code != 125 || !strings.Contains(x.err.String(), c.want) || strings.Count(x.err.String(), "\n") != 1 {
				t.Errorf("exit %d, %q; want one line with %q", code, x.err.String(), c.want)
			}
		})
	}
	w.must("kill", "box")
	w.must("wait", "box")
	if x := w.hv("cp", "box:/etc/passwd", "-"); x.run() != 125 || !strings.Contains(x.err.String(), "not running") {
		t.Errorf("an ended instance: %q", x.err.String())
	}
}

func TestTop(t *testing.T) {
	w := newWorld(t)
	w.must("run", "-d", "--name", "box", "host", "sleep", "1000")
	var tasks []workload.Task
	if err := json.Unmarshal([]byte(w.must("top", "--json", "box")), &tasks); err != nil || len(tasks) != 1 || tasks[0].State == "" {
		t.Errorf("%+v, %v", tasks, err)
	}
	if out := w.must("top", "box"); !strings.HasPrefix(out, "PID ") || strings.Count(out, "\n") != 2 {
		t.Errorf("%s", out)
	}
	w.must("pause", "box")
	if x := w.hv("top", "box"); x.run() != 125 || !strings.Contains(x.err.String(), "hvctl resume box") {
		t.Errorf("a paused instance: %q", x.err.String())
	}
}
