package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/container"
	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// app is one call of the program.
type app struct {
	out, err io.Writer

	root, logFile, logFormat string
	store                    string // of kernels, for VMs
	debug, version           bool
	systemd                  bool
	vm                       bool // bundles run as microVMs: package ocivm

	log *slog.Logger
}

func (a *app) globalFlags() flagSet {
	a.root, a.logFormat = defaultRoot(), "text"
	var s flagSet
	s.text(&a.root, "root", "", "folder for the containers' state ("+a.root+")")
	s.text(&a.logFile, "log", "", "file to append messages to (standard error)")
	s.text(&a.logFormat, "log-format", "", "text or json")
	s.onOff(&a.debug, "debug", "", "log more")
	s.onOff(&a.systemd, "systemd-cgroup", "", "have systemd make the cgroups of new containers")
	if a.vm {
		s.text(&a.store, "store", "", "folder with the guest kernels (hvctl's own default)")
	}
	s.ignored("rootless", "accepted for runc's sake", false)
	s.ignored("criu", "accepted for runc's sake", false)
	s.onOff(&a.version, "version", "v", "print the versions")
	return s
}

// defaultRoot is where state is lost with the next boot.
func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		return filepath.Join(dir, "hvctl-oci")
	}
	return "/run/hvctl-oci"
}

// openLog makes the logger: runc's format, to a file when one is given.
func (a *app) openLog() error {
	w := a.err
	if a.logFile != "" {
		f, err := os.OpenFile(a.logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("--log: %w", err)
		}
		w = f
	}
	level := slog.LevelInfo
	if a.debug {
		level = slog.LevelDebug
	}
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: lowerLevel}
	switch a.logFormat {
	case "", "text":
		a.log = slog.New(slog.NewTextHandler(w, o))
	case "json":
		a.log = slog.New(slog.NewJSONHandler(w, o))
	default:
		return fmt.Errorf("--log-format: %q is neither text nor json", a.logFormat)
	}
	return nil
}

// lowerLevel writes levels as clients of runc read them.
func lowerLevel(groups []string, at slog.Attr) slog.Attr {
	if at.Key != slog.LevelKey || len(groups) > 0 {
		return at
	}
	name := strings.ToLower(at.Value.String())
	if name == "warn" {
		name = "warning"
	}
	return slog.String(slog.LevelKey, name)
}

// fail tells of an error where it is looked for: the log, of which engines
// show the last line, and standard error.
func (a *app) fail(err error) {
	if a.log == nil {
		if a.openLog() != nil {
			fmt.Fprintln(a.err, err)
			return
		}
	}
	a.log.Error(err.Error()) //nolint:sloglint // clients look for the text in msg
	if a.logFile != "" {
		fmt.Fprintln(a.err, err)
	}
}

// runtime is the library, for this host.
func (a *app) runtime() (*container.Runtime, error) {
	root, err := filepath.Abs(a.root)
	if err != nil {
		return nil, err
	}
	r := &container.Runtime{Root: root, Log: a.log, Systemd: manager}
	switch r.Cgroups, err = container.HostCgroups(); {
	case errors.Is(err, cgroup.ErrNotMounted):
		a.log.Warn("containers have no cgroup and no limits", "err", err)
	case err != nil:
		return nil, err
	}
	return r, nil
}

// maker is the library for commands that make a container.
func (a *app) maker() (*container.Runtime, error) {
	r, err := a.runtime()
	if err == nil && a.systemd {
		r.Scopes = true
		_, err = manager() // before anything is made that it would make again
	}
	return r, err
}

// versionLike is the runc whose command line and output this follows:
// containerd reads the first line of --version.
const versionLike = "1.3.0"

func (a *app) printVersion() {
	fmt.Fprintf(a.out, "runc version %s-compatible\nhvctl-oci: runs containers with package container of hvctl\nspec: %s\n", versionLike, specs.Version)
}

func (a *app) usage(globals flagSet) {
	fmt.Fprint(a.out, "usage: hvctl-oci [FLAGS] COMMAND [FLAGS] ARGUMENTS\n\nRuns containers by the OCI runtime specification.\n\nCommands (COMMAND --help says more):\n")
	for _, c := range commands {
		fmt.Fprintf(a.out, "  %-12s %s\n", c.name, c.help)
	}
	fmt.Fprint(a.out, "\nFlags:\n")
	globals.print(a.out)
}
