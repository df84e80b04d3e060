package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

// vmFlags says of every flag of run what a VM makes of it. A new flag is a
// decision: it is honoured somewhere, or checkBackend refuses it.
var vmFlags = map[string]string{
	"interactive": "owner", "tty": "guest", "rm": "owner", "name": "store", "replace": "store",
	"env": "guest", "env-file": "guest", "workdir": "guest", "user": "guest", "hostname": "guest", "entrypoint": "guest",
	"cpus": "machine and cgroup", "cpu-weight": "cgroup", "memory": "machine", "pids-limit": "guest and cgroup", "cgroup-parent": "cgroup",
	"publish": "hostnet", "network": "hostnet", "mac-address": "hostnet", "ip": "hostnet", "dns": "guest", "add-host": "guest",
	"label": "store", "read-only": "guest", "cap-add": "guest", "cap-drop": "guest", "security-opt": "guest", "ulimit": "guest",
	"sysctl": "guest", "tmpfs": "guest", "volume": "machine",
	"stop-signal": "owner", "stop-timeout": "owner", "pull": "images", "backend": "here",
	"kernel": "machine", "cmdline": "machine", "transport": "machine", "disk": "machine", "hugepages": "machine", "timeline": "machine",
	"no-log": "owner", "log-max-size": "owner", "log-max-files": "owner",
}

const refusedFlag = "refused"

func TestEveryFlagOfRunIsHonouredOrRefusedByVMs(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range workloadFlags() {
		name := f.Names()[0]
		seen[name] = true
		if vmFlags[name] == "" {
			t.Errorf("--%s: say in vmFlags what a VM makes of it", name)
		}
	}
	for name, what := range vmFlags {
		if !seen[name] {
			t.Errorf("--%s: run has no such flag", name)
		}
		if what == refusedFlag {
			app := &cli.App{Flags: workloadFlags(), Action: func(c *cli.Context) error { return checkBackend(c, "vm", &workload.Config{}) }}
			err := app.Run([]string{"run", "--" + name, "x"})
			if !errors.Is(err, workload.ErrUnsupported) || !strings.Contains(err.Error(), "--"+name) {
				t.Errorf("--%s: %v", name, err)
			}
		}
	}
}
