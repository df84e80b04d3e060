package program

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// maxCap is the highest capability that there could be.
const maxCap = 63

// lastCap is the highest that this kernel knows.
func lastCap() uint64 {
	for c := uint64(maxCap); c > 0; c-- {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil {
			return c
		}
	}
	return 0
}

const capSysAdmin = 1 << unix.CAP_SYS_ADMIN

// find looks for the program and makes it execve's. A file that nobody may
// execute is not it, but remembered.
func (b *builder) find(p *plan.Process) {
	name := p.Args[0]
	candidates := []string{name}
	inPath := !strings.Contains(name, "/")
	if inPath {
		candidates = nil
		for _, dir := range searchPath(p.Env) {
			if dir == "" {
				dir = "."
			}
			candidates = append(candidates, dir+"/"+name)
		}
	}
	var found, forbidden steps.Label
	denied := b.Space(8)
	st := b.Space(statSize)
	what := "exec: " + strconv.Quote(name)
	for _, c := range candidates {
		var next, useless, fits steps.Label
		at := b.String(c)
		stat := b.Call(what+": stat "+c, unix.SYS_STAT, uint64(at), uint64(st))
		if inPath {
			stat.Else(&next)
		}
		b.Compare("", st+statMode, unix.S_IFMT, unix.S_IFDIR, 0).Then(&useless).Optional()
		b.Compare("", st+statMode, 0o111, 0, 0).Then(&useless).Else(&fits)
		b.Here(&fits)
		b.Set(b.path, uint64(at)).Then(&found)
		b.Here(&useless)
		b.Set(denied, 1)
		b.Here(&next)
	}
	b.Compare("", denied, 1, 1, 0).Then(&forbidden).Optional()
	b.Fail(what+": executable file not found in $PATH", unix.ENOENT)
	b.Here(&forbidden)
	b.Fail(what, unix.EACCES)
	b.Here(&found)
}

// searchPath is the PATH in force: the last one given. Without any, there is
// nowhere to look.
func searchPath(env []string) (dirs []string) {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			dirs = strings.Split(v, ":")
		}
	}
	return dirs
}

// notify is who takes the seccomp listener, and what goes with it.
type notify struct {
	socket     int
	text, size steps.Ref
}

// become takes privileges away, sets the limits and goes to the execve.
func (b *builder) become(p *plan.Process, n *notify, execve *steps.Label) {
	// Raising a hard limit takes CAP_SYS_RESOURCE, which goes next.
	for _, r := range p.Rlimits {
		lim := binary.LittleEndian.AppendUint64(nil, r.Soft)
		what := fmt.Sprintf("process.rlimits: %s to %d:%d", r.Name, r.Soft, r.Hard)
		b.Call(what, unix.SYS_PRLIMIT64, 0, uint64(r.Resource), uint64(b.Bytes(binary.LittleEndian.AppendUint64(lim, r.Hard))), 0)
	}
	if p.HasCaps {
		for c := range lastCap() + 1 {
			if p.Caps.Bounding&(1<<c) == 0 {
				b.Call("process.capabilities.bounding", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c)
			}
		}
	}
	b.Call("PR_SET_KEEPCAPS", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1)
	if p.SetGroups {
		list := make([]byte, 0, 4*len(p.Groups))
		for _, g := range p.Groups {
			list = binary.LittleEndian.AppendUint32(list, g)
		}
		b.Call("process.user.additionalGids", unix.SYS_SETGROUPS, uint64(len(p.Groups)), uint64(b.Bytes(list)))
	}
	id := uint64(p.GID)
	b.Call(fmt.Sprintf("process.user.gid %d", id), unix.SYS_SETRESGID, id, id, id)
	id = uint64(p.UID)
	b.Call(fmt.Sprintf("process.user.uid %d", id), unix.SYS_SETRESUID, id, id, id)
	if p.NoNewPrivs {
		b.Call("process.noNewPrivileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	}
	if p.HasCaps {
		b.setCaps(p)
	}
	if p.DieWithParent { // forgotten with every change of identity, so late
		b.Call("PR_SET_PDEATHSIG", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uint64(unix.SIGKILL))
	}
	b.filter(p, n)
	b.Go(execve)
}

// setCaps sets the other four sets. Without no_new_privs the kernel wants
// CAP_SYS_ADMIN for the filter that follows; execve computes the program's
// sets from the inheritable, ambient and bounding ones alone.
func (b *builder) setCaps(p *plan.Process) {
	c := p.Caps
	eff, perm := c.Effective, c.Permitted
	if len(p.Seccomp) > 0 && !p.NoNewPrivs {
		eff, perm = eff|capSysAdmin, perm|capSysAdmin
	}
	le := binary.LittleEndian
	header := le.AppendUint64(nil, unix.LINUX_CAPABILITY_VERSION_3) // and process 0, the caller
	var data []byte
	for _, shift := range []uint{0, 32} {
		for _, set := range []uint64{eff, perm, c.Inheritable} {
			data = le.AppendUint32(data, uint32(set>>shift))
		}
	}
	b.Call("process.capabilities: the caller itself may lack one of them", unix.SYS_CAPSET, uint64(b.Bytes(header)), uint64(b.Bytes(data)))
	b.Call("PR_CAP_AMBIENT", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
	for n := range uint64(maxCap + 1) {
		if c.Ambient&(1<<n) != 0 {
			b.Call(fmt.Sprintf("process.capabilities.ambient: raise %d", n), unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, n)
		}
	}
}

// filter loads the seccomp filter, after which only execve follows: and the
// message that takes the listener to its agent, which the filter has to let
// pass.
func (b *builder) filter(p *plan.Process, n *notify) {
	if len(p.Seccomp) == 0 {
		return
	}
	const insnSize = 8
	prog := binary.LittleEndian.AppendUint64(nil, uint64(len(p.Seccomp)/insnSize)) // struct sock_fprog
	prog = binary.LittleEndian.AppendUint64(prog, uint64(b.Bytes(p.Seccomp)))
	fd := b.Space(8)
	b.Call("linux.seccomp", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uint64(p.SeccompFlags), uint64(b.Bytes(prog))).Store(fd)
	if n != nil {
		b.send("linux.seccomp.listenerPath", n.socket, fd, n.text, n.size)
	}
}
