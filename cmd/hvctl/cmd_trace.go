package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdTrace() *cli.Command {
	return &cli.Command{
		Name:      "trace",
		Usage:     "print the exits of a VM's processors to the VMM as they happen",
		ArgsUsage: "INSTANCE",
		Description: "Until ctrl-c, the limit or the VM's end. What KVM serves by itself (hlt, page faults,\n" +
			"doorbells, most interrupts) is no exit to the VMM; `hvctl metrics` counts it. Exits\n" +
			"that come faster than they are printed are counted and left out. Only one may trace\n" +
			"a VM at a time; without a trace exits cost what they always do.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "reason", Usage: "only for the reasons `NAME[,NAME...]`: io, mmio, intr, debug, ..."},
			&cli.StringFlag{Name: "port", Usage: "only of the ports `N[-N]` (reason io)"},
			&cli.StringFlag{Name: "addr", Usage: "only of the guest physical addresses `N[-N]` (reason mmio)"},
			&cli.IntSliceFlag{Name: "vcpu", Usage: "only of the virtual processor `N`"},
			&cli.Uint64Flag{Name: "limit", Usage: "end after `N` exits; 0: never"},
			&cli.BoolFlag{Name: "json", Usage: "print a line of JSON each"},
		},
		BashComplete: p.completeInstances(workload.Running),
		Action: p.one(func(c *cli.Context, h *launch.Handle) error {
			r, err := traceOf(c)
			if err != nil {
				return usagef(c, "%w", err)
			}
			ctx, stop := interruptible(c)
			defer stop()
			show := p.showExit
			if c.Bool("json") {
				show = func(e workload.TraceExit) error { return json.NewEncoder(p.stdout).Encode(e) }
			}
			if err := h.Client.Trace(ctx, r, show); err != nil && ctx.Err() == nil {
				return named(h, err)
			}
			return nil
		}),
	}
}

func traceOf(c *cli.Context) (r workload.TraceRequest, err error) {
	if s := c.String("reason"); s != "" {
		r.Reasons = strings.Split(s, ",")
	}
	r.VCPUs, r.Limit = c.IntSlice("vcpu"), c.Uint64("limit")
	var errs [2]error
	r.Ports, errs[0] = rangeOf("port", c.String("port"))
	r.Addresses, errs[1] = rangeOf("addr", c.String("addr"))
	if err := errors.Join(errs[:]...); err != nil {
		return r, err
	}
	return r, r.Check()
}

// rangeOf reads N or N-N, in any base that Go's numbers have; empty is nil.
func rangeOf(flag, s string) (*workload.Range, error) {
	if s == "" {
		return nil, nil
	}
	first, last, two := strings.Cut(s, "-")
	if !two {
		last = first
	}
	var r workload.Range
	var err, lerr error
	r.First, err = strconv.ParseUint(first, 0, 64)
	r.Last, lerr = strconv.ParseUint(last, 0, 64)
	if err != nil || lerr != nil {
		return nil, fmt.Errorf("--%s %q: want a number such as 0x3f8, or a range such as 0x3f8-0x3ff", flag, s)
	}
	return &r, nil
}

func (p *program) showExit(e workload.TraceExit) error {
	_, err := fmt.Fprintln(p.stdout, exitText(e))
	return err
}

// exitText is an exit for humans.
func exitText(e workload.TraceExit) string {
	var b strings.Builder
	if e.Dropped > 0 {
		fmt.Fprintf(&b, "(%d exits left out)\n", e.Dropped)
	}
	fmt.Fprintf(&b, "%s vcpu%d %s", e.Time.Local().Format("15:04:05.000000"), e.VCPU, printable(e.Reason))
	if e.Size == 0 {
		if e.Addr != 0 {
			fmt.Fprintf(&b, " at %#x", e.Addr)
		}
		return b.String()
	}
	if e.Write {
		fmt.Fprintf(&b, " write %#x <- %#0*x", e.Addr, 2*min(e.Size, 8), e.Value)
	} else {
		fmt.Fprintf(&b, " read  %#x (%d bytes)", e.Addr, e.Size)
	}
	if e.Count > 1 {
		fmt.Fprintf(&b, " x %d", e.Count)
	}
	if e.Device == "" {
		e.Device = "nobody's"
	}
	return b.String() + "  " + printable(e.Device)
}
