// Program ociconf is what scripts/conformance calls: it judges runtimes by the
// validation programs of OCI runtime-tools, and renders the table.
//
//	ociconf run --tools DIR --out FILE NAME=PROGRAM...
//	ociconf table --out FILE RESULTS...
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/ociconf"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := dispatch(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "ociconf:", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("want run or table")
	}
	flags := flag.NewFlagSet(args[0], flag.ExitOnError)
	tools := flags.String("tools", "", "folder made by scripts/conformance-tools")
	out := flags.String("out", "", "file to write")
	only := flags.String("only", "", "comma-separated programs to run; the others are left out")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "run":
		return judge(ctx, *tools, *out, *only, flags.Args())
	case "table":
		return table(*out, flags.Args())
	}
	return fmt.Errorf("unknown command %q: want run or table", args[0])
}

func judge(ctx context.Context, tools, out, only string, runtimes []string) error {
	suite, err := ociconf.Open(tools)
	if err != nil {
		return err
	}
	programs := suite.Programs()
	if only != "" {
		programs = strings.Split(only, ",")
	}
	version, err := os.ReadFile(filepath.Join(tools, "version"))
	if err != nil {
		return err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return os.NewSyscallError("uname", err)
	}
	release, _, _ := strings.Cut(unix.ByteSliceToString(uts.Release[:]), "-") // without the builder's own part
	r := &ociconf.Results{
		Mode:   ociconf.Mode(),
		Kernel: "Linux " + release,
		Suite:  strings.TrimSpace(string(version)),
	}
	for _, arg := range runtimes {
		name, path, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q: want NAME=PROGRAM", arg)
		}
		rt := ociconf.Runtime{Name: name, View: ociconf.Host}
		if name == "crun" && r.Mode == "hybrid-v1" {
			rt.View = ociconf.V1Only
		}
		said, err := exec.CommandContext(ctx, path, "--version").Output()
		if err != nil {
			return fmt.Errorf("%s --version: %w", path, err)
		}
		first, _, _ := strings.Cut(string(said), "\n")
		rt.Version = first[strings.LastIndexByte(first, ' ')+1:]
		if rt.Programs, err = suite.Run(ctx, path, rt.View, programs); err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "%s %s: %d of %d programs pass\n", name, rt.Version, rt.Passed(), len(rt.Programs))
		r.Runtimes = append(r.Runtimes, rt)
	}
	return r.Save(out)
}

func table(out string, files []string) error {
	var all []*ociconf.Results
	for _, f := range files {
		r, err := ociconf.Load(f)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	page, err := ociconf.Table(all)
	if err != nil {
		return err
	}
	return os.WriteFile(out, page, 0o644)
}
