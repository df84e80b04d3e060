package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// takesCommand are the verbs whose arguments end in somebody else's command
// line: nothing after the first positional argument is ours.
var takesCommand = []string{"run", "create", "exec"}

// permute moves flags in front of positional arguments, so that
// `hvctl logs web -f` means what its writer meant. The flag package, which
// parses them, stops at the first positional argument.
func permute(app *cli.App, args []string) []string {
	out := args[:1:1]
	rest := args[1:]
	cmds, flags := app.Commands, app.Flags
	for top := true; ; top = false {
		// The flags of the level we are at, then the command that follows.
		n := 0
		for n < len(rest) && isFlag(rest[n]) {
			n += width(flags, rest[n:])
		}
		n = min(n, len(rest))
		if n == len(rest) || rest[n] == "--" {
			return append(out, rest...)
		}
		i := slices.IndexFunc(cmds, func(c *cli.Command) bool { return c.HasName(rest[n]) })
		if i < 0 {
			break
		}
		cmd := cmds[i]
		out, rest = append(out, rest[:n+1]...), rest[n+1:]
		cmds, flags = cmd.Subcommands, cmd.Flags
		if top && slices.Contains(takesCommand, cmd.Name) { // not snapshot create
			return append(out, rest...)
		}
	}
	if len(cmds) > 0 {
		return append(out, rest...) // an unknown command
	}
	var pos []string
	for len(rest) > 0 && rest[0] != "--" {
		n := 1
		if isFlag(rest[0]) {
			n = min(width(flags, rest), len(rest))
			out = append(out, rest[:n]...)
		} else {
			pos = append(pos, rest[0])
		}
		rest = rest[n:]
	}
	if len(rest) > 0 {
		rest = rest[1:] // the separator is set anew
	}
	if pos = append(pos, rest...); len(pos) > 0 && slices.ContainsFunc(pos, isFlag) {
		out = append(out, "--")
	}
	return append(out, pos...)
}

func isFlag(s string) bool { return len(s) > 1 && s[0] == '-' && s != "--" }

// width is how many arguments the flag in args[0] takes up, itself included.
func width(flags []cli.Flag, args []string) int {
	name := strings.TrimLeft(args[0], "-")
	if strings.Contains(name, "=") {
		return 1
	}
	find := func(name string) cli.Flag {
		for _, f := range flags {
			if slices.Contains(f.Names(), name) {
				return f
			}
		}
		return nil
	}
	f := find(name)
	if f == nil && !strings.HasPrefix(args[0], "--") && name != "" {
		f = find(name[len(name)-1:]) // -ft: the last one may take a value
	}
	if d, ok := f.(cli.DocGenerationFlag); ok && d.TakesValue() {
		return 2
	}
	return 1
}

const completionFlag = "--generate-bash-completion"

// completion handles a shell's question for completions, whose last argument
// is completionFlag. Flags are answered here. For the rest it returns the
// arguments to go on with: the command alone, for the library does not take
// flags that are not whole yet.
func completion(app *cli.App, args []string, w io.Writer) (rest []string, done bool) {
	words := args[1 : len(args)-1]
	out := args[:1:1]
	cmds, flags := app.Commands, app.Flags
	top := true
	for i := 0; i < len(words); {
		if last := i == len(words)-1; last && strings.HasPrefix(words[i], "-") {
			for _, f := range flags {
				for _, n := range f.Names() {
					if len(n) > 1 && strings.HasPrefix("--"+n, words[i]) {
						fmt.Fprintln(w, "--"+n)
					}
				}
			}
			return nil, true
		}
		if isFlag(words[i]) {
			n := min(width(flags, words[i:]), len(words)-i)
			if top {
				out = append(out, words[i:i+n]...) // --root decides which names there are
			}
			i += n
			continue
		}
		j := slices.IndexFunc(cmds, func(c *cli.Command) bool { return c.HasName(words[i]) })
		if j < 0 {
			break
		}
		out = append(out, words[i])
		cmds, flags, top = cmds[j].Subcommands, cmds[j].Flags, false
		i++
	}
	return append(out, completionFlag), false
}
