package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/urfave/cli/v2"
)

// backendFlags says of every flag of run what a VM and what a container makes of
// it. A new flag is a decision: it is honoured somewhere, or checkBackend refuses
// it.
var backendFlags = map[string][2]string{
	"interactive": {"owner", "owner"}, "tty": {"guest", "owner"}, "rm": {"owner", "owner"}, "name": {"store", "store"}, "replace": {"store", "store"},
	"env": {"guest", "spec"}, "env-file": {"guest", "spec"}, "workdir": {"guest", "spec"}, "user": {"guest", "owner"}, "hostname": {"guest", "spec"},
	"entrypoint": {"guest", "spec"}, "cpus": {"machine and cgroup", "cgroup"}, "cpu-weight": {"cgroup", "cgroup"}, "cpu-deadline": {"machine", "spec"},
	"memory": {"machine", "cgroup"}, "pids-limit": {"guest and cgroup", "cgroup"}, "cgroup-parent": {"cgroup", "cgroup"},
	"publish": {"hostnet", "hostnet"}, "network": {"hostnet", "hostnet"}, "cni-conf": {"hostnet", "hostnet"}, "cni-plugins": {"hostnet", "hostnet"}, "mac-address": {"hostnet", "hostnet"}, "ip": {"hostnet", "hostnet"},
	"dns": {"guest", "owner"}, "add-host": {"guest", "owner"}, "label": {"store", "store"}, "read-only": {"guest", "spec"},
	"cap-add": {"guest", "spec"}, "cap-drop": {"guest", "spec"}, "security-opt": {"guest", "spec"}, "ulimit": {"guest", "spec"},
	"sysctl": {"guest", "spec"}, "tmpfs": {"guest", "spec"}, "volume": {"machine", "spec"},
	"stop-signal": {"owner", "owner"}, "stop-timeout": {"owner", "owner"}, "pull": {"images", "images"}, "backend": {"here", "here"},
	"kernel": {"machine", refusedFlag}, "cmdline": {"machine", refusedFlag}, "transport": {"machine", refusedFlag}, "disk": {"machine", refusedFlag},
	"max-cpus": {"machine", refusedFlag}, "max-memory": {"machine", refusedFlag}, "rootfs": {"machine", refusedFlag}, "hugepages": {"machine", refusedFlag}, "cpu": {"machine", refusedFlag}, "balloon": {"machine", refusedFlag}, "watchdog": {"machine", refusedFlag}, "on-panic": {"machine", refusedFlag}, "timeline": {"machine", refusedFlag}, "gdb": {"machine", refusedFlag}, "gdb-wait": {"machine", refusedFlag},
	"device-read-bps": {"group", "group"}, "device-write-bps": {"group", "group"}, "device-read-iops": {"group", "group"}, "device-write-iops": {"group", "group"},
	"no-log": {"owner", "owner"}, "log-max-size": {"owner", "owner"}, "log-max-files": {"owner", "owner"},
}

const refusedFlag = "refused"

func TestEveryFlagOfRunIsHonouredOrRefused(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range workloadFlags() {
		name := f.Names()[0]
		seen[name] = true
		if _, ok := backendFlags[name]; !ok {
			t.Errorf("--%s: say in backendFlags what the backends make of it", name)
		}
	}
	for name, what := range backendFlags {
		if !seen[name] {
			t.Errorf("--%s: run has no such flag", name)
		}
		for i, backend := range []string{"vm", "container"} {
			if what[i] != refusedFlag {
				continue
			}
			app := &cli.App{Flags: workloadFlags(), Action: func(c *cli.Context) error { return checkBackend(c, backend, &workload.Config{}) }}
			args := []string{"run", "--" + name, "1"}
			if err := app.Run(args); !errors.Is(err, workload.ErrUnsupported) || !strings.Contains(err.Error(), "--"+name) {
				t.Errorf("%s: --%s: %v", backend, name, err)
			}
		}
	}
}
