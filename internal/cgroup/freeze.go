package cgroup

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Freeze stops every process of the group and of those below it, and returns
// when they stand still. When they do not before ctx ends (10 seconds, if it
// has no deadline), the group is thawed again and the error says so.
func (g *Group) Freeze(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	err := g.freeze(ctx)
	if err == nil {
		return nil
	}
	if timedOut(err) {
		err = fmt.Errorf("cgroup %s: not all processes could be frozen in time: %w", g, err)
	}
	if gone(err) {
		return fmt.Errorf("%w: %s", ErrNotFound, g)
	}
	return errors.Join(err, g.thaw())
}

func (g *Group) freeze(ctx context.Context) error {
	if dir := g.v2(); dir != "" {
		err := write(dir, "cgroup.freeze", "1")
		if err == nil {
			return awaitEvent(ctx, dir, "frozen", 1)
		}
		if !gone(err) || !exists(dir, ".") {
			return err
		}
	}
	dir, _ := g.of("freezer")
	if dir == "" {
		return unsupported("freeze", "the kernel is older than 5.2 and has no freezer hierarchy mounted")
	}
	return again(ctx, func() (bool, error) {
		// A group whose processes fork while it freezes stays FREEZING until it
		// is asked again (cgroup-v1/freezer-subsystem.rst).
		if err := write(dir, "freezer.state", "FROZEN"); err != nil {
			return false, err
		}
		s, err := read(dir, "freezer.state")
		return strings.TrimSpace(s) == "FROZEN", err
	})
}

// Thaw lets the processes go on. Thawing what is not frozen does nothing.
func (g *Group) Thaw(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := g.thaw(); err != nil {
		return err
	}
	if dir := g.v2(); dir != "" && exists(dir, "cgroup.freeze") {
		if err := awaitEvent(ctx, dir, "frozen", 0); err != nil {
			return fmt.Errorf("cgroup %s: thaw: %w", g, err)
		}
	}
	return nil
}

func (g *Group) thaw() error {
	if dir := g.v2(); dir != "" && exists(dir, "cgroup.freeze") {
		if err := write(dir, "cgroup.freeze", "0"); err != nil {
			return explain(g.String(), err)
		}
	}
	if dir, _ := g.of("freezer"); dir != "" {
		if err := write(dir, "freezer.state", "THAWED"); err != nil && !gone(err) {
			return explain(g.String(), err)
		}
	}
	return nil
}

// Frozen tells whether the group was asked to stand still.
func (g *Group) Frozen() (bool, error) {
	if dir := g.v2(); dir != "" {
		n, err := readUint(dir, "cgroup.freeze")
		if err == nil && n == 1 {
			return true, nil
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return false, explain(g.String(), err)
		}
	}
	dir, _ := g.of("freezer")
	if dir == "" {
		return false, nil
	}
	s, err := read(dir, "freezer.state")
	if gone(err) {
		return false, fmt.Errorf("%w: %s", ErrNotFound, g)
	}
	return strings.TrimSpace(s) != "THAWED", explain(g.String(), err)
}
