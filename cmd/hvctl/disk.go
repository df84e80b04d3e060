package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/virtio/blk"
)

// diskOptions is the help of --disk.
const diskOptions = "ro, serial=TEXT, format=raw|qcow2, overlay=FILE, cache=writeback|none, queues=N, iops=N, bps=SIZE, engine=plain|uring"

// diskKeys read the value of each option of --disk.
var diskKeys = map[string]func(d *workload.Disk, v string) error{
	"path": func(d *workload.Disk, v string) error { d.Path = v; return nil },
	"ro": func(d *workload.Disk, v string) error {
		d.ReadOnly = v == "on" || v == "true"
		return oneOf(v, "on", "true", "off", "false")
	},
	"serial": func(d *workload.Disk, v string) error {
		d.Serial = v
		if v == "" || len(v) > 20 { // VIRTIO_BLK_ID_BYTES
			return fmt.Errorf("want 1 to 20 bytes")
		}
		return nil
	},
	"format": func(d *workload.Disk, v string) error {
		if v != string(blk.FormatRaw) {
			d.Format = v
		}
		return oneOf(v, string(blk.FormatRaw), string(blk.FormatQcow2))
	},
	"overlay": func(d *workload.Disk, v string) (err error) {
		if v == "" {
			return fmt.Errorf("want a file")
		}
		d.Overlay, err = filepath.Abs(v)
		return err
	},
	"cache": func(d *workload.Disk, v string) error {
		d.Cache = v
		return oneOf(v, string(blk.CacheWriteback), string(blk.CacheNone))
	},
	"engine": func(d *workload.Disk, v string) error {
		d.Engine = v
		return oneOf(v, string(blk.EnginePlain), string(blk.EngineURing))
	},
	"queues": func(d *workload.Disk, v string) (err error) {
		if d.Queues, err = strconv.Atoi(v); err != nil || d.Queues < 1 || d.Queues > blk.MaxQueues {
			return fmt.Errorf("want 1 to %d", blk.MaxQueues)
		}
		return nil
	},
	"iops": func(d *workload.Disk, v string) (err error) { d.IOPS, err = parseRate(v); return err },
	"bps":  func(d *workload.Disk, v string) (err error) { d.BPS, err = parseRate(v); return err },
}

func oneOf(v string, words ...string) error {
	if slices.Contains(words, v) {
		return nil
	}
	return fmt.Errorf("want %s", strings.Join(words, " or "))
}

// parseRate reads a number a second, with a unit as sizes have it; 0 is none.
func parseRate(v string) (uint64, error) {
	n, err := parseSize(v)
	if err == nil && n > 1<<40 {
		err = fmt.Errorf("want at most 1T")
	}
	return n, err
}

// parseDisk reads path=FILE[,OPTION]..., or a path in the place of the first.
func parseDisk(s string) (workload.Disk, error) {
	var d workload.Disk
	for i, kv := range strings.Split(s, ",") {
		k, v, has := strings.Cut(kv, "=")
		switch {
		case i == 0 && !has && k != "ro":
			k, v = "path", k
		case k == "ro" && !has:
			v = "on"
		case !has:
			k = kv + "="
		}
		read, ok := diskKeys[k]
		if !ok {
			return d, fmt.Errorf("disk %q: %q is not understood; want path=FILE and of %s", s, kv, diskOptions)
		}
		if err := read(&d, v); err != nil {
			return d, fmt.Errorf("disk %q: %q: %w", s, kv, err)
		}
	}
	if d.Path == "" {
		return d, fmt.Errorf("disk %q: no path given", s)
	}
	p, err := filepath.Abs(d.Path)
	if err != nil {
		return d, err
	}
	d.Path = p
	st, err := os.Stat(p)
	if err != nil {
		return d, fmt.Errorf("disk: %w", err)
	}
	switch {
	case d.Format == "" && d.Overlay != "":
		return d, fmt.Errorf("disk %s: overlay= is for format=qcow2", d.Path)
	case d.Format != "" && d.ReadOnly == (d.Overlay != ""):
		return d, fmt.Errorf("disk %s: an image in qcow2 is only read: give overlay=FILE for what the guest writes, or ro, and not both", d.Path)
	case d.Format != "" && (d.Cache == string(blk.CacheNone) || d.Engine == string(blk.EngineURing)):
		return d, fmt.Errorf("disk %s: cache=none and engine=uring are for raw images", d.Path)
	}
	if st.IsDir() {
		return d, fmt.Errorf("disk %s: is a directory; want a file or block device", d.Path)
	}
	return d, nil
}

// parseDiskUpdate reads SERIAL[,size=SIZE|auto][,iops=N][,bps=SIZE].
func parseDiskUpdate(s string) (workload.DiskUpdate, error) {
	serial, rest, _ := strings.Cut(s, ",")
	u := workload.DiskUpdate{Serial: serial}
	for kv := range strings.SplitSeq(rest, ",") {
		k, v, _ := strings.Cut(kv, "=")
		var n uint64
		var err error
		switch k {
		case "size":
			if v != "auto" {
				if n, err = parseSize(v); err == nil && n == 0 {
					err = fmt.Errorf("want more than nothing, or auto")
				}
			}
			u.SizeBytes = &n
		case "iops":
			n, err = parseRate(v)
			u.IOPS = &n
		case "bps":
			n, err = parseRate(v)
			u.BPS = &n
		default:
			err = fmt.Errorf("not understood; want SERIAL and of size=SIZE|auto, iops=N, bps=SIZE")
		}
		if err != nil {
			return u, fmt.Errorf("disk %q: %q: %w", s, kv, err)
		}
	}
	return u, nil
}
