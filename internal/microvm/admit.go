package microvm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/plan"
	virtionet "github.com/hvctl/hvctl/virtio/net"
)

// admit judges the configuration of a VM that another owner offers, and puts our
// own paths into it. Whoever may send VMs here may use this host's processors and
// memory, read images of its store, and name one of the directories that are lent to what comes; no other
// file of it may be his choice.
func admit(cfg *workload.Config, here *workload.Receive, p plan.Plan, rootfs workload.FileMark) error {
	if cfg.Backend != "vm" {
		return fmt.Errorf("%w: a %s, where a VM is waited for", workload.ErrUnsupported, cfg.Backend)
	}
	if cfg.VM.Raw || cfg.Rootfs.ImagePath == "" {
		return fmt.Errorf("%w: a VM without hvctl's agent, or without an image", workload.ErrUnsupported)
	}
	name := filepath.Base(cfg.Rootfs.ImagePath)
	if name == "." || name == ".." || name == "/" {
		return fmt.Errorf("root file system %q is no file's name", cfg.Rootfs.ImagePath)
	}
	cfg.Rootfs.ImagePath, cfg.Rootfs.Dir = filepath.Join(here.Images, name), ""
	for i, d := range cfg.VM.Disks {
		if d.ReadOnly || d.Format != "" || d.Overlay != "" {
			return fmt.Errorf("%w: disk %d (%s) is a file of the source's host", workload.ErrUnsupported, i, d.Path)
		}
	}
	for _, m := range cfg.Spec.Mounts {
		if m.Type != "tmpfs" && !isShare(m) && !standardMount(m.Destination) {
			return fmt.Errorf("%w: %s is %s of the source's host", workload.ErrUnsupported, m.Destination, m.Source)
		}
	}
	if err := lend(cfg.Spec.Mounts, p, here.Lent); err != nil { // wherever the guest has it
		return err
	}
	if cfg.Net.Mode == workload.NetCNI || cfg.Net.CNI != nil { // it names programs to run
		return fmt.Errorf("%w: CNI network of the source's host; only none, bridge and user are received", workload.ErrUnsupported)
	}
	if cfg.Net.Mode == workload.NetTap || cfg.Net.Tap != nil {
		return fmt.Errorf("%w: an interface of the source's host; only none, bridge and user are received", workload.ErrUnsupported)
	}
	if _, err := os.Stat(virtionet.VhostPath); err != nil {
		cfg.Net.Vhost = false // who serves the queues is this host's affair
	}
	cfg.Net.ReachHost = false // what listens on our loopback is not for whoever sends VMs
	return checkRootfs(cfg, rootfs)
}

// standardMount tells whether the guest's agent makes a mount itself, so that its
// source does not matter.
func standardMount(destination string) bool {
	return slices.Contains(guestMounts, destination)
}
