package microvm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hvctl/hvctl/internal/cgroup"
	"github.com/hvctl/hvctl/internal/confine"
	"github.com/hvctl/hvctl/internal/instance"
	"github.com/hvctl/hvctl/internal/workload"
)

// Confined says how this process is confined (`inspect`, `doctor --self`).
type Confined struct {
	confine.Report
	// Allows are the reasons for what is left open that most VMs do not need.
	Allows []string `json:"allows,omitempty"`
}

// Confine has do called when everything is set up, before the guest runs its first
// instruction: confine.Apply, in a process that is the VM's alone.
func (v *VM) Confine(do func(confine.Policy) (confine.Report, error)) { v.confine = do }

// enter confines the process, once. A host that cannot do all of it is reported.
func (v *VM) enter() error {
	if v.confine == nil || v.confined.Load() != nil {
		return nil
	}
	_, _ = time.Now().Zone() // reads the time zone, which the log is in
	if err := v.makeDirs(); err != nil {
		return err
	}
	p, allows := v.policy()
	c := &Confined{Allows: allows}
	var err error
	if c.Report, err = v.confine(p); err != nil {
		return err
	}
	v.confined.Store(c)
	v.times.mark("confined")
	return nil
}

// makeDirs makes the directories through which files get to clients and come from
// them: what lies elsewhere is out of this process's reach.
func (v *VM) makeDirs() error {
	if v.cfg.DataDir == "" {
		return nil
	}
	out, in := filepath.Join(v.cfg.DataDir, workload.OutDir), filepath.Join(v.cfg.DataDir, workload.InDir)
	// What is put into the one is given to this process, whoever it is, and not the rest.
	return errors.Join(os.MkdirAll(out, 0o700), os.MkdirAll(in, 0o700), os.Chmod(in, 0o711))
}

// mustEnter is enter for a guest that is ours already: it runs in any case.
func (v *VM) mustEnter() {
	if err := v.enter(); err != nil {
		v.log.Error("this process is not confined", "err", err)
	}
}

// policy is what this VM's process has to be able to do from now on, and why.
func (v *VM) policy() (p confine.Policy, allows []string) {
	if v.cfg.DataDir != "" {
		p.Files = v.files()
	} else {
		allows = append(allows, "all files: an instance of an earlier hvctl, which writes where its clients say")
	}
	if s := v.cfg.VM.Vsock; s != nil && s.Path != "" {
		p.Sockets = append(p.Sockets, unix.AF_UNIX)
		allows = append(allows, "sockets of programs: the guest's vsock connections lead there")
	}
	if v.cfg.OwnRoot() && !v.fetches() {
		p.Starter = os.Getenv(instance.MountsEnv)
	}
	if p.Starter != "" && os.Geteuid() == 0 {
		if why := v.staysRoot(); why != "" {
			allows = append(allows, why)
		} else {
			v.becomes(&p)
		}
	}
	if v.cfg.Rootfs.Dir != "" || len(v.shared) > 0 {
		p.Owners = true
		p.Capabilities = append(p.Capabilities, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID,
			unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_MKNOD)
		allows = append(allows, "capabilities to act as the owner of any file: directories of the host are shared with the guest")
	}
	if v.fetches() {
		p.Programs = true
		allows = append(allows, "starting a program, this one: memory that comes later has a fault handler, which is replaced when it ends")
	}
	return p, allows
}

// staysRoot is why root's user ID is kept; empty: it need not be.
func (v *VM) staysRoot() string {
	switch {
	case v.cfg.DataDir == "":
		return "" // said already
	case strings.HasPrefix(v.cfg.VM.GDB, "unix:"):
		return "root's user ID: the debugger's socket is removed at the end, in a directory of somebody's"
	case v.cfg.VM.Vsock != nil && v.cfg.VM.Vsock.Path != "":
		return "root's user ID: sockets of programs are for root to connect to"
	}
	return ""
}

// becomes has the process go on as a user of its own, who has the instance's directory
// and what is written for clients. What it needs of other files is open.
func (v *VM) becomes(p *confine.Policy) {
	if v.cfg.DataDir == "" {
		return
	}
	p.User, p.Groups = instance.UserOf(v.cfg.ID), []int{instance.OwnersGroup}
	p.Gives = []string{v.dir, filepath.Join(v.cfg.DataDir, workload.OutDir)}
	if v.cfg.AutoRemove {
		p.GivesDirs = []string{v.cfg.DataDir}
	}
}

// fetches tells whether memory may come later, through another process.
func (v *VM) fetches() bool { return v.filler != nil || v.cfg.VM.Receive != nil }

// files are what this process opens from now on. The rest was opened before, or
// comes from a client.
func (v *VM) files() []confine.Rule {
	const own = confine.Read | confine.Write | confine.Create
	at := instance.PlacesOf(v.root())
	rules := []confine.Rule{
		{Path: v.dir, Access: own},
		{Path: at.Events, Access: confine.Read | confine.Write}, // and the file that takes its place
		{Path: "/proc/self", Access: confine.Read},
		{Path: "/proc/meminfo", Access: confine.Read},
	}
	if dir := v.cfg.DataDir; dir != "" {
		rules = append(rules,
			confine.Rule{Path: filepath.Join(dir, workload.OutDir), Access: own},
			confine.Rule{Path: filepath.Join(dir, workload.InDir), Access: confine.Read | confine.Unlink | confine.Rmdir})
	}
	if v.cfg.AutoRemove { // by another name first, and all of it
		rules = append(rules,
			confine.Rule{Path: v.cfg.DataDir, Access: confine.Read | confine.Unlink | confine.Rmdir},
			confine.Rule{Path: filepath.Dir(v.cfg.DataDir), Access: confine.Rmdir, Stays: true},
			confine.Rule{Path: v.root(), Access: confine.Rmdir | confine.Mkdir, Stays: true},
			confine.Rule{Path: at.Lock, Access: confine.Read | confine.Write, Stays: true},
			confine.Rule{Path: at.Names, Access: confine.Unlink, Stays: true})
	}
	for _, m := range v.cfg.Spec.Mounts {
		if isShare(m) {
			rules = append(rules, share(m.Source, slices.Contains(m.Options, "ro")))
		}
	}
	if v.cfg.Rootfs.Dir != "" {
		rules = append(rules, share(v.cfg.Rootfs.Dir, false))
	}
	if v.fetches() {
		rules = append(rules,
			confine.Rule{Path: "/proc/self/exe", Access: confine.Read | confine.Execute},
			confine.Rule{Path: os.DevNull, Access: confine.Read | confine.Write})
		if r := v.cfg.VM.Restore; r != nil {
			for _, f := range append([]string{r.File}, r.Bases...) {
				rules = append(rules, confine.Rule{Path: f, Access: confine.Read})
			}
		}
		if r := v.cfg.VM.Receive; r != nil && r.Identity != "" {
			rules = append(rules, confine.Rule{Path: r.Identity, Access: confine.Read})
		}
	}
	if path, ok := strings.CutPrefix(v.cfg.VM.GDB, "unix:"); ok {
		rules = append(rules, confine.Rule{Path: filepath.Dir(path), Access: confine.Unlink})
	}
	if s := v.cfg.VM.Vsock; s != nil && s.Path != "" {
		rules = append(rules, confine.Rule{Path: filepath.Dir(s.Path), Access: own | confine.Special})
	}
	return append(rules, v.groupFiles()...)
}

// share is what a guest may do with a directory of the host.
func share(path string, readOnly bool) confine.Rule {
	r := confine.Rule{Path: path, Access: confine.Read}
	if !readOnly {
		r.Access |= confine.Write | confine.Create | confine.Special
	}
	return r
}

// groupFiles are those of this process's cgroup, and what it takes to leave and
// remove that.
func (v *VM) groupFiles() []confine.Rule {
	rules := []confine.Rule{{Path: instance.PlacesOf(v.root()).Groups, Access: confine.Read | confine.Unlink, Stays: true}}
	g, err := cgroup.Open(v.cfg.GroupPath())
	if err != nil {
		return rules // none, or none of ours
	}
	for _, dir := range g.Paths() {
		rules = append(rules,
			confine.Rule{Path: dir, Access: confine.Read},
			confine.Rule{Path: dir, Access: confine.Read | confine.Write, Stays: true},
			confine.Rule{Path: filepath.Join(filepath.Dir(dir), "cgroup.subtree_control"), Access: confine.Read})
		if root, ok := strings.CutSuffix(dir, g.String()); ok {
			rules = append(rules,
				confine.Rule{Path: root, Access: confine.Rmdir, Stays: true},
				confine.Rule{Path: filepath.Join(root, "cgroup.procs"), Access: confine.Write, Stays: true})
		}
	}
	return rules
}
