package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"text/tabwriter"
	"time"

	"github.com/hvctl/hvctl/internal/hostnet"
	"github.com/hvctl/hvctl/internal/supervisor/launch"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/virtio/blk"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

func (p *program) cmdDevice() *cli.Command {
	patience := &cli.DurationFlag{Name: "timeout", Value: workload.PlugTimeout * time.Second, Usage: "how long the guest may take, `DURATION`"}
	return &cli.Command{
		Name:  "device",
		Usage: "plug disks and network interfaces into running VMs, and out",
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "plug a disk or a network interface into a running VM", ArgsUsage: "INSTANCE",
				Description: "For VMs that were started with --transport pci. Prints the device's ID when a driver in\n" +
					"the guest has taken it; a disk has it as its serial number, too. A network interface\n" +
					"has no address yet: that is the guest's to give it.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "disk", Usage: "a disk, `path=FILE[,OPTION]...`, as run has it, without engine=uring"},
					&cli.StringFlag{Name: "network", Usage: "a tap or macvtap of the host, `tap:NAME[,mtu=N]`"},
					&cli.StringFlag{Name: "mac-address", Usage: "`MAC` address of a network interface", DefaultText: "made from the names of instance and tap"},
					&cli.StringFlag{Name: "id", Usage: "call it `NAME`", DefaultText: "a disk's serial number, or plug0, plug1, ..."},
					patience,
				},
				BashComplete: p.completeInstances(workload.Running),
				Action:       p.deviceAdd,
			},
			{
				Name: "rm", Usage: "ask a running VM for a device that was plugged in", ArgsUsage: "INSTANCE DEVICE",
				Description: "Unmount a disk in the guest first: its kernel lets go of one that is in use, too, and\nwhat was not written yet is lost.",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "take it when the guest has not given it back in time"},
					patience,
				},
				BashComplete: p.completeInstances(workload.Running),
				Action:       p.deviceRemove,
			},
			{
				Name: "ls", Aliases: []string{"list"}, Usage: "list the devices of a running VM", ArgsUsage: "INSTANCE",
				Flags: []cli.Flag{jsonFlag()}, BashComplete: p.completeInstances(workload.Running, workload.Paused), Action: p.deviceList,
			},
		},
	}
}

// seconds reads --timeout, in whole seconds.
func seconds(c *cli.Context) (int, error) {
	d := c.Duration("timeout")
	if d < time.Second || d > workload.MaxPlugTimeout*time.Second {
		return 0, usagef(c, "--timeout %v: want 1s to 1h", d)
	}
	return int((d + time.Second - 1) / time.Second), nil
}

func (p *program) deviceAdd(c *cli.Context) (err error) {
	if c.NArg() != 1 || c.IsSet("disk") == c.IsSet("network") {
		return usagef(c, "want one instance, and --disk or --network")
	}
	h, err := p.handle(c, c.Args().First())
	if err != nil {
		return err
	}
	r := workload.PlugRequest{ID: c.String("id")}
	if r.TimeoutSeconds, err = seconds(c); err != nil {
		return err
	}
	defer func() {
		for _, f := range r.Files {
			_ = f.Close() // the owner has its own
		}
	}()
	if c.IsSet("disk") {
		err = openDisk(c, &r)
	} else {
		err = openTap(c, h.ID(), &r)
	}
	if err == nil {
		err = r.Check()
	}
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	d, err := h.Plug(ctx, r)
	if err != nil {
		return named(h, err)
	}
	_, err = fmt.Fprintln(p.stdout, d.ID)
	return err
}

// openDisk opens what --disk names, for an owner that cannot.
func openDisk(c *cli.Context, r *workload.PlugRequest) error {
	d, err := parseDisk(c.String("disk"))
	if err != nil {
		return usagef(c, "%w", err)
	}
	if r.ID == "" {
		r.ID = d.Serial
	}
	r.Disk = &d
	flags := os.O_RDWR | unix.O_NONBLOCK
	if d.ReadOnly {
		flags &^= os.O_RDWR
	}
	more := []int{0}
	if d.Cache == string(blk.CacheNone) {
		more = append(more, unix.O_DIRECT)
	}
	for _, m := range more {
		f, err := os.OpenFile(d.Path, flags|m, 0)
		if errors.Is(err, unix.EINVAL) && m != 0 {
			return fmt.Errorf("disk %s: its file system has no direct I/O; use cache=writeback", d.Path)
		}
		if err != nil {
			return fmt.Errorf("disk: %w", err)
		}
		r.Files = append(r.Files, f)
	}
	return nil
}

// openTap opens what --network names.
func openTap(c *cli.Context, instance string, r *workload.PlugRequest) error {
	var n workload.Network
	if err := networkMode(c.String("network"), &n); err != nil {
		return usagef(c, "%w", err)
	}
	if n.Tap == nil || n.Vhost || n.Queues > 1 || n.Tap.Address.IsValid() || n.Tap.Gateway.IsValid() {
		return usagef(c, "network %q: what is plugged in is tap:NAME[,mtu=N], and the guest gives it its address", c.String("network"))
	}
	o := hostnet.TapOptions{Interface: n.Tap.Interface, MTU: n.MTU, ID: instance + "/" + n.Tap.Interface}
	if s := c.String("mac-address"); s != "" {
		text, err := parseMAC(s)
		if err != nil {
			return usagef(c, "%w", err)
		}
		if o.MAC, err = net.ParseMAC(text); err != nil {
			return err
		}
	}
	a, err := hostnet.AttachTap(o)
	if err != nil {
		return err
	}
	r.Files = a.Queues
	r.Net = &workload.PlugNet{Interface: n.Tap.Interface, MAC: a.MAC.String(), MTU: a.MTU}
	return nil
}

func (p *program) deviceRemove(c *cli.Context) error {
	if c.NArg() != 2 {
		return usagef(c, "want an instance and a device")
	}
	h, err := p.handle(c, c.Args().First())
	if err != nil {
		return err
	}
	r := workload.UnplugRequest{ID: c.Args().Get(1), Force: c.Bool("force")}
	if r.TimeoutSeconds, err = seconds(c); err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	if err := h.Unplug(ctx, r); err != nil {
		return named(h, err)
	}
	_, err = fmt.Fprintln(p.stdout, r.ID)
	return err
}

func (p *program) deviceList(c *cli.Context) error {
	return p.one(func(c *cli.Context, h *launch.Handle) error {
		all, err := h.Devices(c.Context)
		if err != nil {
			return named(h, err)
		}
		if c.Bool("json") {
			return p.printJSON(all)
		}
		w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "DEVICE\tKIND\tSLOT\tPLUGGED IN\tIN USE")
		for _, d := range all {
			slot := "-"
			if d.Slot != 0 {
				slot = fmt.Sprint(d.Slot)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d.ID, d.Kind, slot, yesNo(d.Plugged), yesNo(d.InUse))
		}
		return w.Flush()
	})(c)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
