package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

func (p *program) cmdDocs() *cli.Command {
	return &cli.Command{
		Name:   "docs",
		Usage:  "print documentation made from the commands",
		Hidden: true,
		Subcommands: []*cli.Command{
			{Name: "man", Usage: "the manual page, for man", Action: func(c *cli.Context) error {
				_, err := fmt.Fprint(p.stdout, manPage(c.App))
				return err
			}},
			{Name: "markdown", Usage: "the reference in docs/cli.md", Action: func(c *cli.Context) error {
				_, err := fmt.Fprint(p.stdout, markdown(c.App))
				return err
			}},
		},
	}
}

// walk visits every command that is not hidden, with its whole name.
func walk(prefix string, cmds []*cli.Command, fn func(name string, c *cli.Command)) {
	for _, c := range cmds {
		if c.Hidden || c.Name == "help" {
			continue
		}
		name := prefix + " " + c.Name
		fn(name, c)
		walk(name, c.Subcommands, fn)
	}
}

// flagDoc is a flag as documentation shows it.
type flagDoc struct{ names, usage string }

func flagDocs(flags []cli.Flag) (out []flagDoc) {
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		if v, hides := f.(cli.VisibleFlag); !ok || hides && !v.IsVisible() || f.Names()[0] == "help" {
			continue
		}
		usage, value := d.GetUsage(), ""
		if i := strings.IndexByte(usage, '`'); i >= 0 {
			rest := usage[i+1:]
			j := strings.IndexByte(rest, '`')
			value = rest[:j]
			usage = usage[:i] + value + rest[j+1:]
		}
		var names []string
		for _, n := range f.Names() {
			if dash := "--"; len(n) == 1 {
				names = append(names, "-"+n)
			} else {
				names = append(names, dash+n)
			}
		}
		doc := flagDoc{names: strings.Join(names, ", ")}
		if d.TakesValue() {
			if value == "" {
				value = "VALUE"
			}
			doc.names += " " + value
			if text := d.GetDefaultText(); text != "" && text != `""` && text != "0" {
				usage += " (default: " + strings.Trim(text, `"`) + ")"
			}
		}
		if env := d.GetEnvVars(); len(env) > 0 {
			usage += " [$" + strings.Join(env, ", $") + "]"
		}
		doc.usage = usage
		out = append(out, doc)
	}
	return out
}

// manPage is hvctl(1) for man.
func manPage(app *cli.App) string {
	var b strings.Builder
	esc := strings.NewReplacer(`\`, `\e`, "-", `\-`, "\n.", "\n\\&.", "\n'", "\n\\&'").Replace
	flags := func(list []cli.Flag) {
		for _, f := range flagDocs(list) {
			fmt.Fprintf(&b, ".TP\n\\fB%s\\fR\n%s\n", esc(f.names), esc(f.usage))
		}
	}
	fmt.Fprintf(&b, ".TH HVCTL 1 \"\" \"hvctl %s\"\n.SH NAME\nhvctl \\- %s\n.SH SYNOPSIS\n", esc(app.Version), esc(app.Usage))
	fmt.Fprint(&b, ".B hvctl\n[\\fIglobal options\\fR] \\fIcommand\\fR [\\fIoptions\\fR] [\\fIarguments\\fR]\n.SH GLOBAL OPTIONS\n")
	flags(app.VisibleFlags())
	fmt.Fprint(&b, ".SH COMMANDS\n")
	walk("hvctl", app.Commands, func(name string, c *cli.Command) {
		fmt.Fprintf(&b, ".SS %s %s\n%s.\n", esc(name), esc(c.ArgsUsage), esc(c.Usage))
		if c.Description != "" {
			fmt.Fprintf(&b, ".PP\n%s\n", esc(c.Description))
		}
		flags(c.VisibleFlags())
	})
	fmt.Fprint(&b, ".SH EXIT STATUS\nThat of the workload for run, exec, start \\-a and attach; 125 when hvctl itself\n"+
		"could not do what was asked, 126 when the command cannot be executed, 127 when it\ndoes not exist, 128 and the signal's number when a signal ended it.\n")
	return b.String()
}

// markdown is the reference part of docs/cli.md.
func markdown(app *cli.App) string {
	var b strings.Builder
	flags := func(list []cli.Flag) {
		docs := flagDocs(list)
		if len(docs) == 0 {
			return
		}
		fmt.Fprint(&b, "| flag | |\n|---|---|\n")
		for _, f := range docs {
			fmt.Fprintf(&b, "| `%s` | %s |\n", strings.ReplaceAll(f.names, "|", "\\|"), strings.ReplaceAll(f.usage, "|", "\\|"))
		}
		fmt.Fprintln(&b)
	}
	fmt.Fprint(&b, "### Global flags\n\n")
	flags(app.VisibleFlags())
	walk("hvctl", app.Commands, func(name string, c *cli.Command) {
		fmt.Fprintf(&b, "### %s\n\n", name)
		if args := strings.TrimSpace(c.ArgsUsage); len(c.Subcommands) == 0 {
			fmt.Fprintf(&b, "`%s`\n\n", strings.TrimSpace(name+" [flags] "+args))
		}
		usage := strings.ToUpper(c.Usage[:1]) + c.Usage[1:] + "."
		if len(c.Aliases) > 0 {
			usage += " Also called `" + strings.Join(c.Aliases, "`, `") + "`."
		}
		if c.Description != "" {
			usage += " " + strings.ReplaceAll(c.Description, "\n", " ")
		}
		fmt.Fprintf(&b, "%s\n\n", usage)
		flags(c.VisibleFlags())
	})
	return strings.TrimRight(b.String(), "\n") + "\n"
}
