package plan

// The walks below are the encoding: the order of the fields is the format.

func (p *Plan) code(c *coder) {
	c.i32(&p.StartFD)
	c.i32(&p.ConsoleFD)
	c.i32(&p.SeccompFD)
	list(c, &p.Join, func(c *coder, j *Join) { c.i32(&j.FD); c.u32(&j.Flag) })
	c.u32(&p.Unshare)
	c.str(&p.TimeOffsets)
	c.bool(&p.UserNS)
	c.str(&p.Root.Path)
	c.bool(&p.Root.ReadOnly)
	c.bool(&p.Root.NoPivot)
	c.u64(&p.Root.Propagation)
	c.bool(&p.Root.Remain)
	c.mounts(&p.Mounts)
	list(c, &p.Devices, func(c *coder, d *Device) { d.code(c) })
	c.bool(&p.DevDefaults)
	c.strs(&p.Masked)
	c.strs(&p.ReadOnly)
	c.pairs(&p.Sysctl)
	c.str(&p.Hostname)
	c.str(&p.Domainname)
	c.bool(&p.RuntimeHooks)
	c.hooks(&p.InContainer)
	c.hooks(&p.AtStart)
	c.bytes(&p.State)
	c.bytes(&p.StartState)
	c.str(&p.NewKeyring)
	has := p.Process != nil
	c.bool(&has)
	if has {
		if c.decoding {
			p.Process = new(Process)
		}
		p.Process.code(c)
	}
}

func (m *Mount) code(c *coder) {
	c.u32(&m.Kind)
	c.str(&m.Type)
	c.str(&m.Source)
	c.str(&m.Dest)
	c.i32(&m.SourceFD)
	c.bool(&m.Recursive)
	c.bool(&m.SourceIsDir)
	c.u64(&m.AttrSet)
	c.u64(&m.AttrClear)
	c.u64(&m.RecSet)
	c.u64(&m.RecClear)
	c.u64s(&m.Propagation)
	c.pairs(&m.Options)
	c.bool(&m.CopyUp)
	c.pairs(&m.Cgroups)
	c.bool(&m.NoFollow)
}

func (d *Device) code(c *coder) {
	c.str(&d.Path)
	c.u32(&d.Mode)
	c.u32(&d.Major)
	c.u32(&d.Minor)
	c.u32(&d.UID)
	c.u32(&d.GID)
}

func (h *Hook) code(c *coder) {
	c.str(&h.Path)
	c.strs(&h.Args)
	c.strs(&h.Env)
	c.u32(&h.TimeoutMillis)
}

func (p *Process) code(c *coder) {
	c.strs(&p.Args)
	c.strs(&p.Env)
	c.str(&p.Cwd)
	c.bool(&p.Terminal)
	c.u32(&p.Columns)
	c.u32(&p.Rows)
	c.u32(&p.UID)
	c.u32(&p.GID)
	c.u32s(&p.Groups)
	c.bool(&p.SetGroups)
	c.u32(&p.Umask)
	c.bool(&p.HasUmask)
	c.bool(&p.HasCaps)
	c.u64(&p.Caps.Bounding)
	c.u64(&p.Caps.Effective)
	c.u64(&p.Caps.Permitted)
	c.u64(&p.Caps.Inheritable)
	c.u64(&p.Caps.Ambient)
	c.bool(&p.NoNewPrivs)
	list(c, &p.Rlimits, func(c *coder, r *Rlimit) { c.u32(&r.Resource); c.u64(&r.Soft); c.u64(&r.Hard) })
	c.str(&p.AppArmor)
	c.str(&p.SELinux)
	c.bytes(&p.Seccomp)
	c.u32(&p.SeccompFlags)
	c.bytes(&p.SeccompState)
	c.u64(&p.Personality)
	c.bool(&p.HasPersonality)
	c.bool(&p.HasScheduler)
	p.Scheduler.code(c)
	c.u32(&p.IOPriority)
	c.bool(&p.HasIOPriority)
	c.u32(&p.MemoryPolicy.Mode)
	c.u32s(&p.MemoryPolicy.Nodes)
	c.bool(&p.HasMemoryPolicy)
	c.u32s(&p.Affinity)
	c.u32(&p.KeepFDs)
	c.u32(&p.KeepBase)
	c.bool(&p.DieWithParent)
}

func (s *Scheduler) code(c *coder) {
	c.u32(&s.Policy)
	c.u64(&s.Flags)
	c.i32(&s.Nice)
	c.u32(&s.Priority)
	c.u64(&s.Runtime)
	c.u64(&s.Deadline)
	c.u64(&s.Period)
}
