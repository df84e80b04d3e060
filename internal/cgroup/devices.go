package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Accesses to a device, with the kernel's numbers (BPF_DEVCG_ACC_*).
const (
	accMknod = 1
	accRead  = 2
	accWrite = 4
	accAll   = accMknod | accRead | accWrite
)

// Kinds of device, with the kernel's numbers (BPF_DEVCG_DEV_*).
const (
	devAny   = 0
	devBlock = 1
	devChar  = 2
)

// anyNumber stands for every major or minor number.
const anyNumber = -1

// deviceRule is one entry of linux.resources.devices. Of all rules that fit a
// request the last one decides, for each of read, write and mknod by itself;
// where none fits the answer is no.
type deviceRule struct {
	allow        bool
	kind         int
	major, minor int64
	access       uint32
}

// deviceRules reads the list. Rules before one that covers everything say
// nothing any more and are left out.
func deviceRules(list []specs.LinuxDeviceCgroup) ([]deviceRule, error) {
	rules := make([]deviceRule, 0, len(list))
	for i, d := range list {
		r, err := readRule(fmt.Sprintf("linux.resources.devices[%d]", i), d)
		if err != nil {
			return nil, err
		}
		if r.kind == devAny && r.major == anyNumber && r.minor == anyNumber && r.access == accAll {
			rules = rules[:0]
			if !r.allow {
				continue // what is not allowed is denied
			}
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func readRule(field string, d specs.LinuxDeviceCgroup) (deviceRule, error) {
	r := deviceRule{allow: d.Allow, major: anyNumber, minor: anyNumber}
	switch d.Type {
	case "", "a":
		r.kind = devAny
	case "b":
		r.kind = devBlock
	case "c", "u":
		r.kind = devChar
	default:
		return r, valueError(field+".type", "%q is none of a, b, c, u", d.Type)
	}
	// dev_t has 12 bits for the major and 20 for the minor number.
	if err := number(&r.major, d.Major, 1<<12, field+".major"); err != nil {
		return r, err
	}
	if err := number(&r.minor, d.Minor, 1<<20, field+".minor"); err != nil {
		return r, err
	}
	for _, c := range d.Access {
		switch c {
		case 'r':
			r.access |= accRead
		case 'w':
			r.access |= accWrite
		case 'm':
			r.access |= accMknod
		default:
			return r, valueError(field+".access", "%q is not made of r, w and m", d.Access)
		}
	}
	if d.Access == "" { // the specification has no default; runtimes read it as all
		r.access = accAll
	}
	return r, nil
}

func number(to, from *int64, limit int64, field string) error {
	if from == nil || *from == anyNumber {
		return nil
	}
	if *from < 0 || *from >= limit {
		return valueError(field, "%d is not within 0 to %d", *from, limit-1)
	}
	*to = *from
	return nil
}

// linesV1 is the rule as devices.allow and devices.deny take it
// (cgroup-v1/devices.rst). The kernel ignores what follows an "a", so a rule
// for both kinds of device is two.
func (r deviceRule) linesV1() (file string, lines []string) {
	file = "devices.deny"
	if r.allow {
		file = "devices.allow"
	}
	num := func(n int64) string {
		if n == anyNumber {
			return "*"
		}
		return fmt.Sprint(n)
	}
	var acc strings.Builder
	for _, a := range []struct {
		bit  uint32
		name string
	}{{accRead, "r"}, {accWrite, "w"}, {accMknod, "m"}} {
		if r.access&a.bit != 0 {
			acc.WriteString(a.name)
		}
	}
	rest := fmt.Sprintf(" %s:%s %s", num(r.major), num(r.minor), acc.String())
	switch {
	case r.kind == devBlock:
		return file, []string{"b" + rest}
	case r.kind == devChar:
		return file, []string{"c" + rest}
	case rest == " *:* rwm":
		return file, []string{"a"}
	}
	return file, []string{"b" + rest, "c" + rest}
}

// setDevices makes list the group's device rules. fresh says that a v2 group has
// no program yet.
func (g *Group) setDevices(list []specs.LinuxDeviceCgroup, fresh bool) error {
	rules, err := deviceRules(list)
	if err != nil {
		return err
	}
	if dir, v2 := g.of("devices"); dir != "" && !v2 {
		return setDevicesV1(dir, rules)
	}
	dir := g.v2()
	if dir == "" {
		return g.sys.missing("devices", "linux.resources.devices")
	}
	err = attachDevices(dir, deviceProgram(rules), fresh)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: linux.resources.devices: %w; cgroup v2 needs CAP_BPF and CAP_NET_ADMIN for it (user namespaces never have them)", ErrPermission, err)
	}
	if err != nil {
		return fmt.Errorf("linux.resources.devices: %w", err)
	}
	return nil
}

// setDevicesV1 writes the rules in their order, after "deny all": the rules are
// the whole list, not an addition to the parent's.
func setDevicesV1(dir string, rules []deviceRule) error {
	rules = append([]deviceRule{{kind: devAny, major: anyNumber, minor: anyNumber, access: accAll}}, rules...)
	files := map[string]*os.File{} // there are some fifteen lines to write
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, r := range rules {
		name, lines := r.linesV1()
		f := files[name]
		if f == nil {
			var err error
			if f, err = openControl(dir, name); err != nil {
				return explain("linux.resources.devices", err)
			}
			files[name] = f
		}
		for _, l := range lines {
			if err := writeTo(f, l); err != nil {
				return explain("linux.resources.devices", err)
			}
		}
	}
	return nil
}
