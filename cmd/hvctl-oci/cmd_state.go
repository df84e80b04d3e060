package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func cmdState(a *app) (func([]string) (int, error), flagSet) {
	return func(args []string) (int, error) {
		r, err := a.runtime()
		if err != nil {
			return 1, err
		}
		st, err := a.state(r, args[0])
		if err != nil {
			return 1, err
		}
		return 0, a.printJSON(st, true)
	}, nil
}

func (a *app) printJSON(v any, indent bool) error {
	e := json.NewEncoder(a.out)
	if indent {
		e.SetIndent("", "  ")
	}
	return e.Encode(v)
}

func cmdKill(a *app) (func([]string) (int, error), flagSet) {
	var all bool
	var s flagSet
	s.onOff(&all, "all", "a", "send it to every process of the container")
	return func(args []string) (int, error) {
		sig := unix.SIGTERM
		if len(args) > 1 {
			var err error
			if sig, err = parseSignal(args[1]); err != nil {
				return 1, err
			}
		}
		r, err := a.runtime()
		if err != nil {
			return 1, err
		}
		return 0, r.Kill(context.Background(), args[0], sig, all)
	}, s
}

// parseSignal reads 9, -9, KILL, SIGKILL, kill, and RTMIN+3.
func parseSignal(text string) (unix.Signal, error) {
	const last, rtmin, rtmax = 64, 34, 64
	bad := fmt.Errorf("unknown signal %q", text)
	if n, err := strconv.Atoi(strings.TrimPrefix(text, "-")); err == nil {
		if n < 0 || n > last {
			return 0, bad
		}
		return unix.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(strings.TrimPrefix(text, "-")), "SIG")
	for _, rt := range []struct {
		name string
		base int
	}{{"RTMIN", rtmin}, {"RTMAX", rtmax}} {
		rest, ok := strings.CutPrefix(name, rt.name)
		if !ok {
			continue
		}
		n := 0
		if rest != "" {
			var err error
			if n, err = strconv.Atoi(rest); err != nil {
				return 0, bad
			}
		}
		if n += rt.base; n < rtmin || n > rtmax {
			return 0, bad
		}
		return unix.Signal(n), nil
	}
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	return 0, bad
}

func cmdDelete(a *app) (func([]string) (int, error), flagSet) {
	var force bool
	var s flagSet
	s.onOff(&force, "force", "f", "kill it if it runs; no error if there is none")
	return func(args []string) (int, error) {
		r, err := a.runtime()
		if err != nil {
			return 1, err
		}
		err = r.Delete(context.Background(), args[0], force)
		if err == nil && a.holdsVM(args[0]) {
			a.leave(args[0])
			err = os.RemoveAll(a.vmDir(args[0]))
		}
		return 0, err
	}, s
}
