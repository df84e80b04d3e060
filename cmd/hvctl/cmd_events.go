package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdEvents() *cli.Command {
	return &cli.Command{
		Name:      "events",
		Usage:     "print what happens to instances, as it happens",
		ArgsUsage: "[INSTANCE...]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "since", Usage: "begin with `TIME`: RFC 3339, or ago as in 10m", DefaultText: "now"},
			&cli.BoolFlag{Name: "no-follow", Usage: "print what was recorded, and end"},
			jsonFlag(),
		},
		BashComplete: p.completeInstances(),
		Action: func(c *cli.Context) error {
			since, err := parseSince(c.String("since"), time.Now())
			if err != nil {
				return err
			}
			s, err := p.instances(c)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(c)
			defer stop()
			follow := !c.Bool("no-follow")
			show := c.IsSet("since") || !follow
			err = s.ReadEvents(ctx, follow, func() { show = true }, func(line []byte) error {
				var e control.Event
				if json.Unmarshal(line, &e) != nil || !show || e.Time.Before(since) || !wanted(e, c.Args().Slice()) {
					return nil // half a line of an owner that was killed is no event
				}
				return p.printEvent(e, c.Bool("json"))
			})
			if ctx.Err() != nil {
				return nil
			}
			return err
		},
	}
}

// wanted tells whether e is of one of refs: names or beginnings of IDs. They
// need not exist yet, or any more.
func wanted(e control.Event, refs []string) bool {
	return len(refs) == 0 || slices.ContainsFunc(refs, func(r string) bool { return e.Name == r || r != "" && strings.HasPrefix(e.ID, r) })
}

func (p *program) printEvent(e control.Event, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(p.stdout).Encode(e)
	}
	var attr []string
	for _, k := range slices.Sorted(maps.Keys(e.Attr)) {
		if v := e.Attr[k]; v != "" {
			attr = append(attr, k+"="+v)
		}
	}
	line := fmt.Sprintf("%s %s %s %s %s", e.Time.Format(time.RFC3339Nano), e.Type, e.ID[:min(12, len(e.ID))], e.Name, strings.Join(attr, " "))
	_, err := fmt.Fprintln(p.stdout, printable(strings.TrimSpace(line)))
	return err
}
