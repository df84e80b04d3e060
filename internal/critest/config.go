package critest

import (
	"fmt"
	"strings"
)

// Config is a configuration of containerd's, of version 2, for a daemon that keeps
// everything below dir, listens at dir/c.sock and is without these plugins and those
// that the test host has no use for.
func Config(text, dir string, without ...string) string {
	for _, p := range []string{"internal.v1.opt", "snapshotter.v1.devmapper", "snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.aufs"} {
		without = append(without, "io.containerd."+p)
	}
	version, plugins, _ := strings.Cut(text, "version = 2\n")
	return fmt.Sprintf("%sversion = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"%s\"]\n[grpc]\naddress = %q\n[ttrpc]\naddress = %q\n%s",
		version, dir+"/root", dir+"/state", strings.Join(without, `", "`), dir+"/c.sock", dir+"/c.sock.ttrpc", plugins)
}
