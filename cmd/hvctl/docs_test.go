package main

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/urfave/cli/v2"
)

var update = flag.Bool("update", false, "rewrite golden files and docs/cli.md")

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run go test -update", err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run go test -update and look at the diff\n%s", file, got)
	}
}

func testApp(out *bytes.Buffer) *program {
	return &program{stdin: os.Stdin, stdout: out, stderr: out}
}

// --help of every command is as it was looked at last.
func TestHelp(t *testing.T) {
	for _, env := range []string{"HVCTL_ROOT", "HVCTL_STORE", "HVCTL_BACKEND", "HVCTL_KERNEL"} {
		t.Setenv(env, "")
	}
	var out bytes.Buffer
	names := []string{"hvctl"}
	walk("hvctl", testApp(&out).app().Commands, func(name string, _ *cli.Command) { names = append(names, name) })
	for _, name := range names {
		out.Reset()
		if code := testApp(&out).run(append(strings.Fields(name), "--help")); code != 0 {
			t.Errorf("%s --help: exit code %d", name, code)
		}
		golden(t, filepath.Join("testdata", "help", strings.ReplaceAll(name, " ", "_")+".golden"), out.String())
	}
}

const (
	refBegin = "<!-- made by `hvctl docs markdown`; go test ./cmd/hvctl -update -->\n"
	refEnd   = "<!-- end -->\n"
)

func TestReferenceIsCurrent(t *testing.T) {
	const file = "../../docs/cli.md"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(b), refBegin)
	_, after, ok2 := strings.Cut(rest, refEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s: the markers are gone", file)
	}
	golden(t, file, before+refBegin+markdown(testApp(new(bytes.Buffer)).app())+refEnd+after)
}

func TestEveryCommandAndFlagIsDescribed(t *testing.T) {
	var out bytes.Buffer
	app := testApp(&out).app()
	walk("hvctl", app.Commands, func(name string, c *cli.Command) {
		if c.Usage == "" || unicode.IsUpper(rune(c.Usage[0])) || strings.HasSuffix(c.Usage, ".") {
			t.Errorf("%s: usage %q", name, c.Usage)
		}
		for _, f := range flagDocs(c.Flags) {
			if f.usage == "" {
				t.Errorf("%s %s: no usage", name, f.names)
			}
		}
	})
}

func TestManPageIsSound(t *testing.T) {
	page := manPage(testApp(new(bytes.Buffer)).app())
	if !strings.Contains(page, ".SS hvctl kernel fetch") || !strings.Contains(page, `\-\-memory, \-m SIZE`) {
		t.Errorf("incomplete:\n%s", page)
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Log("groff is not installed: only its words were checked")
		return
	}
	cmd := exec.Command(groff, "-man", "-Tutf8", "-ww", "-z")
	cmd.Stdin = strings.NewReader(page)
	if msg, err := cmd.CombinedOutput(); err != nil || len(msg) > 0 {
		t.Errorf("groff: %v: %s", err, msg)
	}
}

func TestCompletion(t *testing.T) {
	w := newWorld(t)
	w.must("create", "--name", "made", "host")
	w.must("run", "--name", "ended", "host")
	for _, c := range []struct {
		args       []string
		has, lacks string
	}{
		{nil, "inspect\n", "docs\n"},
		{[]string{"start"}, "made\n", "ended\n"},
		{[]string{"logs"}, "ended\n", "host"},
		{[]string{"run"}, "host:latest\n", "made"},
		{[]string{"kernel"}, "fetch\n", "inspect"},
		{[]string{"run", "--mem"}, "--memory\n", "made"},
	} {
		got := w.must(append(c.args, "--generate-bash-completion")...)
		if !strings.Contains(got, c.has) || strings.Contains(got, c.lacks) {
			t.Errorf("%q: %q; want %q and not %q", c.args, got, c.has, c.lacks)
		}
	}
	for _, sh := range []string{"bash", "zsh", "fish"} {
		script := w.must("completion", sh)
		if path, err := exec.LookPath(sh); err == nil {
			cmd := exec.Command(path, "-n")
			cmd.Stdin = strings.NewReader(script)
			if msg, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s -n: %v: %s", sh, err, msg)
			}
		}
	}
}
