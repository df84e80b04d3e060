package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// execFailed is runc's code for a program that could not be started.
const execFailed = 255

type execFlags struct {
	opts                container.ExecOptions
	processFile         string
	cwd, user, label    string
	apparmor            string
	env, caps, gids     []string
	tty, detach, noPriv bool
	preserveFDs         int
}

func (f *execFlags) add(s *flagSet) {
	s.text(&f.opts.ConsoleSocket, "console-socket", "", "socket that receives the terminal")
	s.text(&f.opts.PIDFDSocket, "pidfd-socket", "", "socket that receives a pidfd of the process")
	s.text(&f.opts.PIDFile, "pid-file", "", "file to write the process's ID to")
	s.text(&f.opts.Cgroup, "cgroup", "", "group below the container's to run in")
	s.onOff(&f.opts.IgnorePaused, "ignore-paused", "", "start it in a paused container, too")
	s.text(&f.processFile, "process", "p", "file with the process as JSON, instead of arguments")
	s.text(&f.cwd, "cwd", "", "directory to run in")
	s.list(&f.env, "env", "e", "NAME=VALUE to add to the environment")
	s.onOff(&f.tty, "tty", "t", "give it a terminal")
	s.text(&f.user, "user", "u", "UID or UID:GID to run as")
	s.list(&f.gids, "additional-gids", "g", "further group ID")
	s.onOff(&f.detach, "detach", "d", "return when the program runs")
	s.text(&f.label, "process-label", "", "SELinux label")
	s.text(&f.apparmor, "apparmor", "", "AppArmor profile")
	s.onOff(&f.noPriv, "no-new-privs", "", "no privileges by set-user-ID programs")
	s.list(&f.caps, "cap", "c", "capability to add")
	s.number(&f.preserveFDs, "preserve-fds", "give it this many descriptors after the standard streams")
}

func cmdExec(a *app) (func([]string) (int, error), flagSet) {
	f := new(execFlags)
	var s flagSet
	f.add(&s)
	return func(args []string) (int, error) {
		code, err := a.exec(f, args)
		if err != nil {
			return code, &exitCode{execFailed, fmt.Errorf("exec failed: %w", err)}
		}
		return code, nil
	}, s
}

func (a *app) exec(f *execFlags, args []string) (int, error) {
	r, err := a.runtime()
	if err != nil {
		return 1, err
	}
	config, err := a.bundleConfig(r, args[0])
	if err != nil {
		return 1, err
	}
	f.opts.Spec = config
	if f.opts.Process, err = f.process(config, args[1:]); err != nil {
		return 1, err
	}
	if f.opts.ExtraFiles, err = inherited(f.preserveFDs); err != nil {
		return 1, err
	}
	if a.holdsVM(args[0]) {
		if err := a.execInVM(r, args[0], &f.opts); err != nil {
			return 1, err
		}
	}
	if f.detach {
		_, err := r.Exec(context.Background(), args[0], f.opts)
		return 0, err
	}
	sess, err := newSession(f.opts.Process.Terminal, f.opts.ConsoleSocket)
	if err != nil {
		return 1, err
	}
	f.opts.Console = sess.socket()
	p, err := r.Exec(context.Background(), args[0], f.opts)
	if err != nil {
		sess.close()
		return 1, err
	}
	return sess.wait(p)
}

// process is the one in the file, or the container's own with what the flags
// change.
func (f *execFlags) process(config *specs.Spec, args []string) (*specs.Process, error) {
	if f.processFile != "" {
		p := new(specs.Process)
		return p, readJSON("--process", f.processFile, p)
	}
	if len(args) == 0 {
		return nil, errors.New("process args cannot be empty: give a program, or --process")
	}
	p := &specs.Process{Cwd: "/"}
	if config.Process != nil {
		*p = *config.Process
	}
	p.Args, p.Terminal, p.ConsoleSize = args, f.tty, nil
	p.Env = withEnv(p.Env, f.env)
	p.NoNewPrivileges = p.NoNewPrivileges || f.noPriv
	for _, o := range []struct {
		to   *string
		text string
	}{{&p.Cwd, f.cwd}, {&p.SelinuxLabel, f.label}, {&p.ApparmorProfile, f.apparmor}} {
		if o.text != "" {
			*o.to = o.text
		}
	}
	if f.user != "" {
		if err := setUser(&p.User, f.user); err != nil {
			return nil, err
		}
	}
	for _, g := range f.gids {
		n, err := parseID("--additional-gids", g)
		if err != nil {
			return nil, err
		}
		p.User.AdditionalGids = append(slices.Clip(p.User.AdditionalGids), n)
	}
	p.Capabilities = withCaps(p.Capabilities, f.caps)
	return p, nil
}

// withEnv is an environment with what add sets instead of what it had: of two
// of one name, getenv(3) finds the first.
func withEnv(env, add []string) []string {
	out := slices.Clone(env)
	for _, kv := range add {
		name, _, _ := strings.Cut(kv, "=")
		out = slices.DeleteFunc(out, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		out = append(out, kv)
	}
	return out
}

// setUser takes numbers only: names are the image's, and whoever wrote that
// must not decide who is root.
func setUser(u *specs.User, text string) error {
	uid, gid, both := strings.Cut(text, ":")
	n, err := parseID("--user", uid)
	if err != nil {
		return err
	}
	u.UID = n
	if both {
		if u.GID, err = parseID("--user", gid); err != nil {
			return err
		}
	}
	return nil
}

func parseID(field, text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 1<<32-1 || text[0] == '+' {
		return 0, fmt.Errorf("%s: %q is not a numeric ID", field, text)
	}
	return uint32(n), nil
}

// withCaps adds capabilities. Inheritable ones stay as they are: with those, a
// program could pass its privileges on.
func withCaps(c *specs.LinuxCapabilities, add []string) *specs.LinuxCapabilities {
	if len(add) == 0 {
		return c
	}
	out := new(specs.LinuxCapabilities)
	if c != nil {
		*out = *c
	}
	for _, set := range []*[]string{&out.Bounding, &out.Effective, &out.Permitted} {
		*set = append(append([]string{}, *set...), add...)
	}
	return out
}

// maxJSON bounds what is read from a file or standard input.
const maxJSON = 4 << 20

// readJSON decodes a file; "-" is standard input.
func readJSON(flag, name string, v any) error {
	in := io.Reader(os.Stdin)
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxJSON+1))
	if err == nil {
		err = container.ParseJSON(b, v)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", flag, name, err)
	}
	return nil
}
