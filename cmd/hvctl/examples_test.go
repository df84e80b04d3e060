package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"
	"github.com/urfave/cli/v2"
)

// checkCommand fails unless args, which begin after "hvctl", are a command that
// there is, with flags that it has, all of them before its arguments.
func checkCommand(t *testing.T, app *cli.App, args []string) {
	t.Helper()
	commands, flags := app.Commands, app.Flags
	said := strings.Join(args, " ")
	for {
		set := flag.NewFlagSet("", flag.ContinueOnError)
		set.SetOutput(io.Discard)
		for _, f := range flags {
			if err := f.Apply(set); err != nil {
				t.Fatal(err)
			}
		}
		if err := set.Parse(args); err != nil {
			t.Errorf("hvctl %s: %v", said, err)
			return
		}
		args = set.Args()
		i := -1
		if len(args) > 0 {
			i = slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[0]) })
		}
		if i < 0 {
			break
		}
		commands, flags, args = commands[i].Subcommands, commands[i].Flags, args[1:]
	}
	if len(commands) > 0 {
		t.Errorf("hvctl %s: there is no such command", said)
	}
	if i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "--") && len(a) > 2 }); i >= 0 {
		t.Errorf("hvctl %s: the flag %s comes after an argument", said, args[i])
	}
}

func TestWorkflowsOfExamplesAreValidAndTheirCommandsExist(t *testing.T) {
	files, err := filepath.Glob("../../examples/github-actions/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflows, %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		l, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		problems, err := l.Lint("<stdin>", b, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s:%d: %s", file, p.Line, p.Message)
		}
		w, problems := actionlint.Parse(b)
		if len(problems) > 0 {
			t.Fatal(problems[0])
		}
		app, n := testApp(&bytes.Buffer{}).app(), 0
		for _, job := range w.Jobs {
			for _, step := range job.Steps {
				run, ok := step.Exec.(*actionlint.ExecRun)
				if !ok {
					continue
				}
				for line := range strings.Lines(run.Run.Value) {
					words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "sudo "))
					if len(words) > 0 && words[0] == "bin/hvctl" {
						n++
						checkCommand(t, app, words[1:])
					}
				}
			}
		}
		if n == 0 {
			t.Errorf("%s has no command of hvctl's", file)
		}
	}
}
