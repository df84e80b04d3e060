package swrk

import (
	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"github.com/hvctl/hvctl/internal/criu"
)

var modes = map[criu.Mode]rpc.CriuCgMode{
	"": rpc.CriuCgMode_SOFT, criu.Soft: rpc.CriuCgMode_SOFT, criu.Full: rpc.CriuCgMode_FULL,
	criu.Strict: rpc.CriuCgMode_STRICT, criu.Ignore: rpc.CriuCgMode_IGNORE,
}

// everything is CRIU's log level: its log is all there is to go by.
const everything = 4

// message is the options as CRIU reads them. What is empty is left to it.
func message(o *criu.Options) *rpc.CriuOpts {
	text := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	m := &rpc.CriuOpts{
		ImagesDirFd: new(int32(o.ImagesDir.Fd())), WorkDirFd: new(int32(o.WorkDir.Fd())), LogLevel: new(int32(everything)), LogFile: text(o.LogFile),
		Root: text(o.Root), ParentImg: text(o.ParentImage), LeaveRunning: &o.LeaveRunning, TrackMem: &o.TrackMemory, AutoDedup: &o.AutoDedup,
		TcpEstablished: &o.TCPEstablished, TcpSkipInFlight: &o.TCPSkipInFlight, ExtUnixSk: &o.ExternalUnix,
		ShellJob: &o.ShellJob, FileLocks: &o.FileLocks, LinkRemap: &o.LinkRemap, FreezeCgroup: text(o.FreezeCgroup),
		ManageCgroups: new(true), ManageCgroupsMode: new(modes[o.ManageCgroups]), LsmProfile: text(o.LSMProfile), LsmMountContext: text(o.LSMMountContext),
		External: o.External, EvasiveDevices: new(true), OrphanPtsMaster: new(true), NotifyScripts: new(true),
	}
	if o.PID != 0 {
		m.Pid = new(int32(o.PID))
	}
	if o.EmptyNS != 0 {
		m.EmptyNs = &o.EmptyNS
	}
	for i := range o.Mounts {
		m.ExtMnt = append(m.ExtMnt, &rpc.ExtMountMap{Key: &o.Mounts[i].Key, Val: &o.Mounts[i].Value})
	}
	for i := range o.Inherit {
		m.InheritFd = append(m.InheritFd, &rpc.InheritFd{Key: &o.Inherit[i].Key, Fd: new(int32(o.Inherit[i].FD))})
	}
	return m
}
