package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

// rootfsOf reads --rootfs.
func rootfsOf(c *cli.Context, cfg *workload.Config) error {
	cfg.VM.Rootfs = c.String("rootfs")
	if c.IsSet("rootfs") {
		if err := oneOf(cfg.VM.Rootfs, workload.RootfsBlk, workload.RootfsPmem); err != nil {
			return fmt.Errorf("--rootfs %q: %w", cfg.VM.Rootfs, err)
		}
	}
	return nil
}

// parsePmem reads path=FILE[,ro[=on|off]], or a path in the place of the first.
func parsePmem(s string) (workload.Pmem, error) {
	var m workload.Pmem
	for i, kv := range strings.Split(s, ",") {
		k, v, has := strings.Cut(kv, "=")
		switch {
		case i == 0 && !has && k != "ro":
			m.Path = k
		case k == "path" && has:
			m.Path = v
		case k == "ro":
			if has {
				if err := oneOf(v, "on", "true", "off", "false"); err != nil {
					return m, fmt.Errorf("pmem %q: %q: %w", s, kv, err)
				}
			}
			m.ReadOnly = !has || v == "on" || v == "true"
		default:
			return m, fmt.Errorf("pmem %q: %q is not understood; want path=FILE and perhaps ro", s, kv)
		}
	}
	if m.Path == "" {
		return m, fmt.Errorf("pmem %q: no path given", s)
	}
	path, err := filepath.Abs(m.Path)
	if err != nil {
		return m, err
	}
	m.Path = path
	st, err := os.Stat(path)
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		return m, fmt.Errorf("pmem: %w", err)
	}
	return m, nil
}
