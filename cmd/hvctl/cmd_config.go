package main

import (
	"github.com/urfave/cli/v2"
)

// effective is what hvctl uses, after defaults, environment and flags.
type effective struct {
	Root     string   `json:"root"`
	Store    string   `json:"store"`
	Backends []string `json:"backends"`
	Backend  string   `json:"backend"` // the default one
	Kernel   string   `json:"kernel"`  // empty: none in the store
	Network  string   `json:"network"`
	LogLevel string   `json:"logLevel"`
}

func (p *program) cmdConfig() *cli.Command {
	return &cli.Command{
		Name:        "config",
		Usage:       "print the configuration that is in effect, as JSON",
		Description: "It comes from defaults, then the environment (HVCTL_ROOT, HVCTL_STORE,\nHVCTL_BACKEND, HVCTL_KERNEL), then flags.",
		Action: func(c *cli.Context) error {
			store, err := storeDir(c)
			if err != nil {
				return err
			}
			e := effective{Root: rootDir(c), Store: store, Network: "bridge", LogLevel: c.String("log-level")}
			if c.Bool("debug") {
				e.LogLevel = "debug"
			}
			for _, b := range p.backends {
				e.Backends = append(e.Backends, b.name)
			}
			if len(e.Backends) > 0 {
				e.Backend = e.Backends[0]
			}
			if s, err := p.kernels(c); err == nil {
				if k, err := s.Default(); err == nil {
					e.Kernel = k.Name
				}
			}
			return p.printJSON(e)
		},
	}
}
