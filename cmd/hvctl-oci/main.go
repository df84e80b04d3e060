// Command hvctl-oci runs containers by the OCI runtime specification, for
// podman, containerd and whoever else drives runc: it takes runc's commands and
// flags, writes its log format and words its errors so that they understand
// them. All it does is in package container; this is flags and output.
//
// It is started several times for each container, so nothing here does work
// before main, and its flags are parsed by 150 lines (docs/adr/0009).
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	os.Exit(run(strings.HasSuffix(os.Args[0], vmSuffix), os.Args[1:], os.Stdout, os.Stderr))
}

// run carries out a command line and returns the exit code.
func run(vm bool, args []string, stdout, stderr io.Writer) int {
	a := &app{out: stdout, err: stderr, vm: vm}
	code, err := a.main(args)
	var ec *exitCode
	switch {
	case err == nil:
		return code
	case errors.As(err, &ec):
		code, err = ec.code, ec.err
	default:
		code = 1
	}
	a.fail(err)
	return code
}

// exitCode is an error that asks for a code of its own.
type exitCode struct {
	code int
	err  error
}

func (e *exitCode) Error() string { return e.err.Error() }
func (e *exitCode) Unwrap() error { return e.err }

// main parses the global flags and calls the command.
func (a *app) main(args []string) (int, error) {
	globals := a.globalFlags()
	rest, err := globals.parse(args)
	switch {
	case errors.Is(err, errHelp), err == nil && len(rest) == 0 && !a.version:
		a.usage(globals)
		return 0, nil
	case err != nil:
		return 1, err
	case a.version:
		a.printVersion()
		return 0, nil
	}
	for i := range commands {
		if c := &commands[i]; c.name == rest[0] {
			return a.command(c, rest[1:])
		}
	}
	if rest[0] == "help" {
		a.usage(globals)
		return 0, nil
	}
	return 1, fmt.Errorf("no such command: %q; see hvctl-oci --help", rest[0])
}

// command parses a command's flags and runs it.
func (a *app) command(c *command, args []string) (int, error) {
	run, flags := c.setup(a)
	rest, err := flags.parse(args)
	switch {
	case errors.Is(err, errHelp):
		if c.unsupported != nil { // clients ask for help to learn whether there is such a thing
			if err := c.unsupported(a); err != nil {
				return 1, err
			}
		}
		fmt.Fprintf(a.out, "usage: hvctl-oci %s [FLAGS] %s\n\n%s.\n\n", c.name, c.args, c.help)
		flags.print(a.out)
		return 0, nil
	}
	if lerr := a.openLog(); lerr != nil {
		return 1, lerr
	}
	if err != nil {
		return 1, fmt.Errorf("%s: %w", c.name, err)
	}
	if len(rest) < c.min || c.max >= 0 && len(rest) > c.max {
		return 1, fmt.Errorf("hvctl-oci %s: wants %s, got %d arguments", c.name, c.args, len(rest))
	}
	return run(rest)
}
