package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// errHelp means that -h or --help was given.
var errHelp = errors.New("help")

// flag is one option. set takes the value's text, "true" for a switch.
type flag struct {
	name, short string
	help        string
	isSwitch    bool
	set         func(string) error
}

// flagSet is the options of a command. They come before the first positional
// argument, as runc's do: what follows belongs to the container, even -9.
type flagSet []flag

func (s *flagSet) add(f flag) { *s = append(*s, f) }

func (s *flagSet) text(p *string, name, short, help string) {
	s.add(flag{name: name, short: short, help: help, set: func(v string) error { *p = v; return nil }})
}

func (s *flagSet) list(p *[]string, name, short, help string) {
	s.add(flag{name: name, short: short, help: help, set: func(v string) error { *p = append(*p, v); return nil }})
}

func (s *flagSet) onOff(p *bool, name, short, help string) {
	s.add(flag{name: name, short: short, help: help, isSwitch: true, set: func(v string) (err error) {
		*p, err = strconv.ParseBool(v)
		return err
	}})
}

func (s *flagSet) number(p *int, name, help string) {
	s.add(flag{name: name, help: help, set: func(v string) (err error) {
		*p, err = strconv.Atoi(v)
		return err
	}})
}

// ignored is accepted for the sake of those who give it.
func (s *flagSet) ignored(name, help string, isSwitch bool) {
	s.add(flag{name: name, help: help, isSwitch: isSwitch, set: func(string) error { return nil }})
}

// parse sets what args say and returns the positional arguments.
func (s flagSet) parse(args []string) ([]string, error) {
	for len(args) > 0 {
		a := args[0]
		if a == "--" {
			return args[1:], nil
		}
		if len(a) < 2 || a[0] != '-' {
			break
		}
		name, value, given := strings.Cut(strings.TrimPrefix(a[1:], "-"), "=")
		if name == "help" || name == "h" {
			return nil, errHelp
		}
		i := slices.IndexFunc(s, func(f flag) bool { return f.name == name || f.short != "" && f.short == name })
		if i < 0 {
			return nil, fmt.Errorf("flag provided but not defined: -%s", name)
		}
		f := s[i]
		args = args[1:]
		switch {
		case given:
		case f.isSwitch:
			value = "true"
		case len(args) == 0:
			return nil, fmt.Errorf("flag needs an argument: -%s", name)
		default:
			value, args = args[0], args[1:]
		}
		if err := f.set(value); err != nil {
			return nil, fmt.Errorf("invalid value %q for flag -%s: %w", value, name, err)
		}
	}
	return args, nil
}

func (s flagSet) print(w io.Writer) {
	for _, f := range s {
		name := "--" + f.name
		if f.short != "" {
			name += ", -" + f.short
		}
		if !f.isSwitch {
			name += " VALUE"
		}
		fmt.Fprintf(w, "  %-28s %s\n", name, f.help)
	}
}
