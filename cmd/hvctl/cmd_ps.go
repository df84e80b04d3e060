package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

// listed is one line of ps.
type listed struct {
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	Image   string            `json:"image"`
	Command []string          `json:"command"`
	Backend string            `json:"backend"`
	State   workload.State    `json:"state"`
	Labels  map[string]string `json:"labels,omitempty"`
}

func (p *program) cmdPs() *cli.Command {
	return &cli.Command{
		Name:    "ps",
		Aliases: []string{"ls", "list"},
		Usage:   "list instances",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "those that do not run, too"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print IDs only"},
			&cli.BoolFlag{Name: "no-trunc", Usage: "do not shorten anything"},
			&cli.StringSliceFlag{Name: "filter", Aliases: []string{"f"}, Usage: "only those with `KEY=VALUE`: id, name, status, backend, image, label"},
			jsonFlag(),
		},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef(c, "unexpected argument %q", c.Args().First())
			}
			match, err := filters(c.StringSlice("filter"))
			if err != nil {
				return err
			}
			all, err := p.list(c)
			if err != nil {
				return err
			}
			byStatus := slices.ContainsFunc(c.StringSlice("filter"), func(s string) bool { return strings.HasPrefix(s, "status=") })
			all = slices.DeleteFunc(all, func(l listed) bool {
				lives := l.State.Status == workload.Running || l.State.Status == workload.Paused
				return !match(l) || !lives && !c.Bool("all") && !byStatus
			})
			if c.Bool("json") {
				return p.printJSON(all)
			}
			return p.printList(all, c.Bool("quiet"), c.Bool("no-trunc"))
		},
	}
}

// list is every instance, newest first.
func (p *program) list(c *cli.Context) ([]listed, error) {
	s, err := p.instances(c)
	if err != nil {
		return nil, err
	}
	is, err := s.List()
	if err != nil {
		return nil, err
	}
	out := []listed{}
	for _, i := range is {
		st, err := i.State()
		if errors.Is(err, instance.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			st.Status = workload.Dead // its files are damaged: rm can remove it
		}
		cfg := i.Config()
		l := listed{ID: i.ID(), Name: i.Name(), Image: cfg.Image.Ref, Backend: cfg.Backend, State: st, Labels: cfg.Labels}
		if cfg.Spec != nil && cfg.Spec.Process != nil {
			l.Command = cfg.Spec.Process.Args
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b listed) int {
		if n := b.State.Created.Compare(a.State.Created); n != 0 {
			return n
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

func (p *program) printList(all []listed, quiet, full bool) error {
	id := func(l listed) string {
		if full {
			return l.ID
		}
		return l.ID[:12]
	}
	if quiet {
		for _, l := range all {
			fmt.Fprintln(p.stdout, id(l))
		}
		return nil
	}
	t := newTable(p.stdout, "ID", "NAME", "IMAGE", "COMMAND", "BACKEND", "STATUS", "PORTS")
	for _, l := range all {
		image, command := images.FamiliarReference(l.Image), strconv.Quote(strings.Join(l.Command, " "))
		if !full {
			command = shorten(command, 24)
		}
		t.row(id(l), l.Name, image, command, l.Backend, statusText(l.State, time.Now()), portsText(l.State.Ports))
	}
	return t.flush()
}

// statusText is a state as docker's users know it.
func statusText(st workload.State, now time.Time) string {
	switch st.Status {
	case workload.Running:
		return "Up " + ago(now.Sub(st.Started))
	case workload.Paused:
		return "Up " + ago(now.Sub(st.Started)) + " (paused)"
	case workload.Exited:
		code := 0
		if st.Exit != nil {
			code = st.Exit.Code
		}
		return fmt.Sprintf("Exited (%d) %s ago", code, ago(now.Sub(st.Finished)))
	case workload.Created:
		return "Created"
	default:
		return "Dead"
	}
}

func portsText(ports []workload.Port) string {
	var out []string
	for _, p := range ports {
		host := ""
		if p.HostIP.IsValid() {
			host = p.HostIP.String() + ":"
			if p.HostIP.Is6() {
				host = "[" + p.HostIP.String() + "]:"
			}
		}
		out = append(out, fmt.Sprintf("%s%d->%d/%s", host, p.HostPort, p.Port, p.Protocol))
	}
	return strings.Join(out, ", ")
}

var statuses = []workload.Status{workload.Created, workload.Running, workload.Paused, workload.Exited, workload.Dead}

// filters makes one predicate of KEY=VALUE texts: any value of a key, all
// keys, as docker does.
func filters(list []string) (func(listed) bool, error) {
	by := map[string][]string{}
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok || !slices.Contains([]string{"id", "name", "status", "backend", "image", "label"}, k) {
			return nil, fmt.Errorf("filter %q: want id=, name=, status=, backend=, image= or label=", s)
		}
		if k == "status" && !slices.Contains(statuses, workload.Status(v)) {
			return nil, fmt.Errorf("filter %q: a status is one of %v", s, statuses)
		}
		by[k] = append(by[k], v)
	}
	return func(l listed) bool {
		for k, vals := range by {
			if !slices.ContainsFunc(vals, func(v string) bool { return l.has(k, v) }) {
				return false
			}
		}
		return true
	}, nil
}

func (l listed) has(key, want string) bool {
	switch key {
	case "id":
		return strings.HasPrefix(l.ID, want)
	case "name":
		return strings.Contains(l.Name, want)
	case "status":
		return string(l.State.Status) == want
	case "backend":
		return l.Backend == want
	case "image":
		return l.Image == want || images.FamiliarReference(l.Image) == want
	}
	k, v, valued := strings.Cut(want, "=")
	have, ok := l.Labels[k]
	return ok && (!valued || have == v)
}
