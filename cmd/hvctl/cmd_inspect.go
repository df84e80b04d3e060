package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/template"
	"time"

	"github.com/hvctl/hvctl/internal/control"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/urfave/cli/v2"
)

// inspected is one entry of inspect's output.
type inspected struct {
	control.Info
	Dir string `json:"dir"` // the state directory
}

// answerTimeout bounds how long an owner may take to say what it knows.
const answerTimeout = 5 * time.Second

func (p *program) cmdInspect() *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "print everything known about instances, as JSON",
		ArgsUsage: "INSTANCE...",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "print by a Go `TEMPLATE` such as '{{.State.IP}}' or '{{json .State}}'"},
			&cli.BoolFlag{Name: "json", Usage: "print JSON (it always does)", Hidden: true},
		},
		BashComplete: p.completeInstances(),
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usagef(c, "no instance given")
			}
			text := c.String("format")
			t, err := template.New("format").Funcs(template.FuncMap{"json": asJSON}).Parse(text)
			if err != nil {
				return fmt.Errorf("--format: %w", err)
			}
			out := []inspected{}
			var errs []error // of some; the others are told of
			for _, ref := range c.Args().Slice() {
				h, err := p.handle(c, ref)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				i, err := inspect(c.Context, h)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				out = append(out, i)
			}
			if text == "" {
				return errors.Join(append(errs, p.printJSON(out))...)
			}
			for _, i := range out {
				if err := t.Execute(p.stdout, i); err != nil {
					return fmt.Errorf("--format: %w", err)
				}
				fmt.Fprintln(p.stdout)
			}
			return errors.Join(errs...)
		},
	}
}

// asJSON is for templates: {{json .State}}.
func asJSON(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// inspect asks the owner, and reads the directory when there is none or it
// does not answer.
func inspect(ctx context.Context, h *launch.Handle) (inspected, error) {
	st, err := h.Instance.State()
	if err != nil {
		return inspected{}, err
	}
	i := inspected{Info: control.Info{Config: h.Config(), State: st}, Dir: h.Dir()}
	if st.PID == 0 {
		return i, nil
	}
	actx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errors.New("the owner does not answer"))
	defer cancel()
	if info, err := h.Info(actx); err == nil {
		i.Info = info
	}
	return i, ctx.Err()
}
