package main

import (
	"fmt"
	"slices"

	"github.com/hvctl/hvctl/images"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

func (p *program) cmdCompletion() *cli.Command {
	shell := func(name, how, text string) *cli.Command {
		return &cli.Command{
			Name: name, Usage: "for " + name + ": " + how,
			Action: func(*cli.Context) error {
				_, err := fmt.Fprint(p.stdout, text)
				return err
			},
		}
	}
	return &cli.Command{
		Name:  "completion",
		Usage: "print a shell's completion script",
		Subcommands: []*cli.Command{
			shell("bash", "source it, or put it into /etc/bash_completion.d", bashCompletion),
			shell("zsh", "call it _hvctl, in a directory of $fpath", zshCompletion),
			shell("fish", "put it into ~/.config/fish/completions/hvctl.fish", fishCompletion),
		},
	}
}

// All three ask hvctl itself: it knows its flags, and the names that exist
// now.
const (
	bashCompletion = `_hvctl() {
	local cur=${COMP_WORDS[COMP_CWORD]} words=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
	[[ $cur == -* ]] && words+=("$cur")
	local IFS=$'\n'
	COMPREPLY=($(compgen -W "$(hvctl "${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
	[[ ${#COMPREPLY[@]} -eq 0 ]] && COMPREPLY=($(compgen -f -- "$cur"))
}
complete -F _hvctl hvctl
`
	zshCompletion = `#compdef hvctl
_hvctl() {
	local -a args opts
	args=("${(@)words[2,CURRENT-1]}")
	[[ ${words[CURRENT]} == -* ]] && args+=("${words[CURRENT]}")
	opts=("${(@f)$(hvctl "${args[@]}" --generate-bash-completion 2>/dev/null)}")
	if [[ -n ${opts[1]} ]]; then compadd -a opts; else _files; fi
}
compdef _hvctl hvctl
`
	fishCompletion = `function __hvctl_complete
	set -l args (commandline -opc)[2..-1]
	set -l cur (commandline -ct)
	string match -q -- '-*' $cur; and set -a args $cur
	hvctl $args --generate-bash-completion 2>/dev/null
end
complete -c hvctl -a '(__hvctl_complete)'
`
)

// completeInstances prints the names of instances with one of the statuses;
// none given: all.
func (p *program) completeInstances(statuses ...workload.Status) cli.BashCompleteFunc {
	return func(c *cli.Context) {
		all, err := p.list(c)
		if err != nil {
			return // nothing to complete with
		}
		for _, l := range all {
			if len(statuses) == 0 || slices.Contains(statuses, l.State.Status) {
				fmt.Fprintln(p.stdout, l.Name)
			}
		}
	}
}

func (p *program) completeImages(c *cli.Context) {
	store, err := p.images(c)
	if err != nil {
		return
	}
	ims, _ := store.List(c.Context) // those that can be read
	for _, im := range ims {
		fmt.Fprintln(p.stdout, images.FamiliarReference(im.Ref))
	}
}

func (p *program) completeKernels(c *cli.Context) {
	s, err := p.kernels(c)
	if err != nil {
		return
	}
	ks, _ := s.List()
	for _, k := range ks {
		fmt.Fprintln(p.stdout, k.Name)
	}
}
