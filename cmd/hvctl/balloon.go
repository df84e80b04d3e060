package main

import (
	"fmt"
	"strings"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

// balloonFlag is --balloon of run, create and boot.
func balloonFlag(of string) cli.Flag {
	return &cli.StringFlag{
		Name:  "balloon",
		Usage: of + "let the guest give free memory back, and take `SIZE[,oom=off][,reporting=off]` from it at first; 0 takes none",
	}
}

// balloonOf reads --balloon.
func balloonOf(c *cli.Context, cfg *workload.Config) error {
	if !c.IsSet("balloon") {
		return nil
	}
	b, err := parseBalloon(c.String("balloon"))
	if err != nil {
		return fmt.Errorf("--balloon: %w", err)
	}
	cfg.VM.Balloon = b
	return nil
}

// parseBalloon reads SIZE[,oom=on|off][,reporting=on|off].
func parseBalloon(s string) (*workload.Balloon, error) {
	size, rest, more := strings.Cut(s, ",")
	n, err := parseSize(size)
	if err != nil {
		return nil, err
	}
	b := &workload.Balloon{TargetBytes: n}
	for more {
		var kv string
		kv, rest, more = strings.Cut(rest, ",")
		k, v, _ := strings.Cut(kv, "=")
		if err := oneOf(v, "on", "off"); err != nil {
			return nil, fmt.Errorf("%q: %w", kv, err)
		}
		switch k {
		case "oom":
			b.NoOOM = v == "off"
		case "reporting":
			b.NoReporting = v == "off"
		default:
			return nil, fmt.Errorf("%q is not understood; want SIZE and of oom=on|off, reporting=on|off", kv)
		}
	}
	return b, nil
}
