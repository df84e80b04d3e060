package enter

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/container/plan"
	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// maxCap is the highest capability asked about; the kernel says where its own
// end.
const maxCap = 63

const capSysAdmin = 1 << unix.CAP_SYS_ADMIN

// find looks for the program and makes it execve's. A file that nobody may
// execute is not it, but remembered.
func (e *enterer) find() {
	name := e.Process.Args[0]
	candidates := []string{name}
	inPath := !strings.Contains(name, "/")
	if inPath {
		candidates = nil
		for dir := range strings.SplitSeq(searchPath(e.Process.Env), ":") {
			if dir == "" {
				dir = "."
			}
			candidates = append(candidates, dir+"/"+name)
		}
	}
	var found, forbidden steps.Label
	denied := e.Space(8)
	st := e.Space(statSize)
	what := "exec: " + strconv.Quote(name)
	for _, c := range candidates {
		var next, useless, fits steps.Label
		at := e.String(c)
		stat := e.Call(what+": stat "+c, unix.SYS_STAT, uint64(at), uint64(st))
		if inPath {
			stat.Else(&next)
		}
		e.Compare("", st+statMode, unix.S_IFMT, unix.S_IFDIR, 0).Then(&useless).Optional()
		e.Compare("", st+statMode, 0o111, 0, 0).Then(&useless).Else(&fits)
		e.Here(&fits)
		e.Set(e.path, uint64(at)).Then(&found)
		e.Here(&useless)
		e.Set(denied, 1)
		e.Here(&next)
	}
	e.Compare("", denied, 1, 1, 0).Then(&forbidden).Optional()
	e.Fail(what+": executable file not found in $PATH", unix.ENOENT)
	e.Here(&forbidden)
	e.Fail(what, unix.EACCES)
	e.Here(&found)
}

// searchPath is the PATH in force: the last one given.
func searchPath(env []string) (path string) {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	return path
}

// become takes privileges away, sets the limits and goes to the execve.
func (e *enterer) become(execve *steps.Label) {
	p := e.Process
	if p.HasCaps {
		for c := range uint64(maxCap + 1) {
			if p.Caps.Bounding&(1<<c) == 0 {
				e.dropBounding(c)
			}
		}
	}
	e.Call("PR_SET_KEEPCAPS", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1)
	if p.SetGroups {
		b := make([]byte, 0, 4*len(p.Groups))
		for _, g := range p.Groups {
			b = binary.LittleEndian.AppendUint32(b, g)
		}
		e.Call("process.user.additionalGids", unix.SYS_SETGROUPS, uint64(len(p.Groups)), uint64(e.Bytes(b)))
	}
	id := uint64(p.GID)
	e.Call(fmt.Sprintf("process.user.gid %d", id), unix.SYS_SETRESGID, id, id, id)
	id = uint64(p.UID)
	e.Call(fmt.Sprintf("process.user.uid %d", id), unix.SYS_SETRESUID, id, id, id)
	if p.NoNewPrivs {
		e.Call("process.noNewPrivileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	}
	if p.HasCaps {
		e.setCaps()
	}
	for _, r := range p.Rlimits {
		lim := binary.LittleEndian.AppendUint64(nil, r.Soft)
		what := fmt.Sprintf("process.rlimits: resource %d to %d:%d", r.Resource, r.Soft, r.Hard)
		e.Call(what, unix.SYS_PRLIMIT64, 0, uint64(r.Resource), uint64(e.Bytes(binary.LittleEndian.AppendUint64(lim, r.Hard))), 0)
	}
	e.filter()
	e.Set(e.Space(8), 0).Then(execve)
}

// dropBounding removes a capability from the bounding set. The kernel refuses
// with EINVAL those that it does not know; that one was not removed for
// another reason shows afterwards.
func (e *enterer) dropBounding(c uint64) {
	var next, fine steps.Label
	what := fmt.Sprintf("process.capabilities.bounding: drop %d", c)
	e.Call(what, unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c).Then(&next).Optional()
	has := e.Space(8)
	e.Call(what, unix.SYS_PRCTL, unix.PR_CAPBSET_READ, c).Store(has).Else(&next)
	e.Compare("", has, 1, 0, 0).Then(&fine).Optional()
	e.Fail(what, unix.EPERM)
	e.Here(&fine)
	e.Here(&next)
}

// setCaps sets the other four sets. Without no_new_privs the kernel wants
// CAP_SYS_ADMIN for the filter that follows; execve computes the program's
// sets from the inheritable, ambient and bounding ones alone.
func (e *enterer) setCaps() {
	c := e.Process.Caps
	eff, perm := c.Effective, c.Permitted
	if len(e.Process.Seccomp) > 0 && !e.Process.NoNewPrivs {
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
	e.Call("process.capabilities: the caller itself may lack one of them", unix.SYS_CAPSET, uint64(e.Bytes(header)), uint64(e.Bytes(data)))
	e.Call("PR_CAP_AMBIENT", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
	for b := range uint64(maxCap + 1) {
		if c.Ambient&(1<<b) != 0 {
			e.Call(fmt.Sprintf("process.capabilities.ambient: raise %d", b), unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, b)
		}
	}
}

// filter loads the seccomp filter, after which only execve follows: and the
// message that takes the listener to its agent, which the filter has to let
// pass.
func (e *enterer) filter() {
	p := e.Process
	if len(p.Seccomp) == 0 {
		return
	}
	const insnSize = 8
	prog := binary.LittleEndian.AppendUint64(nil, uint64(len(p.Seccomp)/insnSize)) // struct sock_fprog
	prog = binary.LittleEndian.AppendUint64(prog, uint64(e.Bytes(p.Seccomp)))
	var text, size steps.Ref
	if e.Notify != plan.None {
		text, size = e.readState()
	}
	fd := e.Space(8)
	e.Call("linux.seccomp", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uint64(p.SeccompFlags), uint64(e.Bytes(prog))).Store(fd)
	if e.Notify != plan.None {
		e.send("linux.seccomp.listenerPath", e.Notify, fd, text, size)
	}
}
