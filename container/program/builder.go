package program

import (
	"encoding/binary"
	"path"
	"strings"

	"github.com/hvctl/hvctl/container/steps"
	"golang.org/x/sys/unix"
)

// Where the kernel's structures have what is compared (stat(2), statfs(2)).
const (
	statSize, statInode, statMode, statGroup, statDevice = 144, 8, 24, 32, 40 // the user is behind the mode
	statfsSize, statfsType                               = 120, 0
	procRootInode                                        = 1
)

// all compares all bits of a word.
const all = 1<<64 - 1

// atCWD is AT_FDCWD.
const atCWD = 1<<64 + unix.AT_FDCWD

// builder writes a program.
type builder struct {
	*steps.Program
	about string // what the steps are for, in front of their names
	hows  map[[2]uint64]steps.Ref
	path  steps.Ref // execve's first argument
	tries steps.Ref // lookups that may still be tried again
}

func newBuilder() builder {
	b := builder{Program: steps.New(), hows: map[[2]uint64]steps.Ref{}}
	b.tries = b.Word(resolveTries)
	return b
}

// call is Call with the builder's context.
func (b *builder) call(what string, nr uintptr, args ...uint64) steps.Step {
	return b.Call(b.about+what, nr, args...)
}

// on is CallOn with the builder's context.
func (b *builder) on(fd steps.Ref, what string, nr uintptr, args ...uint64) steps.Step {
	return b.CallOn(b.about+what, nr, fd, args...)
}

// text is the address of a C string, as an argument.
func (b *builder) text(s string) uint64 { return uint64(b.String(s)) }

// how is a struct open_how.
func (b *builder) how(flags, resolve uint64) uint64 {
	key := [2]uint64{flags | unix.O_CLOEXEC, resolve}
	if at, ok := b.hows[key]; ok {
		return uint64(at)
	}
	h := binary.LittleEndian.AppendUint64(nil, key[0])
	at := b.Bytes(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(h, 0), resolve))
	b.hows[key] = at
	return uint64(at)
}

const howSize = 24

// Ways to resolve a name.
const (
	inRoot  = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	noLinks = inRoot | unix.RESOLVE_NO_SYMLINKS // no component may be a link
	beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS
)

// resolveTries bounds how often lookups that raced with a rename are tried
// again; the kernel asks for it with EAGAIN.
const resolveTries = 4096

// open opens name below the descriptor at dir and stores it at to. A failure
// goes to failed (nil: fails the program).
func (b *builder) open(dir steps.Ref, name string, flags, resolve uint64, to steps.Ref, failed *steps.Label) {
	var again, refused, done, fatal steps.Label
	out := failed
	if out == nil {
		out = &fatal
	}
	b.Here(&again)
	b.CallOn("", unix.SYS_OPENAT2, dir, b.text(name), b.how(flags, resolve), howSize).Store(to).Then(&done).Else(&refused)
	b.Here(&refused)
	b.Compare("", steps.LastErrno, all, uint64(unix.EAGAIN), 0).Else(out)
	b.Count(b.tries, unix.EAGAIN).Then(&again).Else(out)
	if failed == nil {
		b.Here(&fatal)
		b.FailAgain(b.about + "open " + name)
	}
	b.Here(&done)
}

// when goes to l if the last system call failed with errno.
func (b *builder) when(errno unix.Errno, l *steps.Label) {
	b.Compare("", steps.LastErrno, all, uint64(errno), 0).Then(l).Optional()
}

// close closes the descriptor at fd.
func (b *builder) close(fd steps.Ref) { b.CallOn("close", unix.SYS_CLOSE, fd).Optional() }

// stat stores the metadata of the descriptor at fd.
func (b *builder) stat(fd steps.Ref) (st steps.Ref) {
	st = b.Space(statSize)
	b.on(fd, "fstat", unix.SYS_FSTAT, uint64(st))
	return st
}

// isDir goes to l if st is a directory's.
func (b *builder) isDir(st steps.Ref, l *steps.Label) {
	b.Compare("", st+statMode, unix.S_IFMT, unix.S_IFDIR, 0).Then(l).Optional()
}

const dirPath = unix.O_PATH | unix.O_DIRECTORY

// mkdirAll opens the directory name below root as O_PATH and stores it at to;
// it is made with its parents if missing. A symbolic link in the part that
// exists is followed inside the root; what has to be made is made one component
// at a time and never through a link.
func (b *builder) mkdirAll(root steps.Ref, name string, to steps.Ref) {
	var done, fatal steps.Label
	b.tryMkdirAll(root, name, to, &fatal)
	b.Go(&done)
	b.Here(&fatal)
	b.FailAgain(b.about + "mkdir " + path.Clean("/"+name))
	b.Here(&done)
}

// tryMkdirAll is mkdirAll; a failure goes to failed.
func (b *builder) tryMkdirAll(root steps.Ref, name string, to steps.Ref, failed *steps.Label) {
	var done, missing steps.Label
	name = path.Clean("/" + name)
	b.open(root, name, dirPath, inRoot, to, &missing)
	b.Go(&done)
	b.Here(&missing)
	b.Compare("", steps.LastErrno, all, uint64(unix.ENOENT), 0).Else(failed)
	parts := strings.Split(name[1:], "/")
	from := make([]steps.Label, len(parts))
	for have := len(parts) - 1; have >= 0; have-- { // the longest part that exists
		var shorter steps.Label
		b.open(root, "/"+strings.Join(parts[:have], "/"), dirPath, inRoot, to, &shorter)
		b.Go(&from[have])
		b.Here(&shorter)
		b.Compare("", steps.LastErrno, all, uint64(unix.ENOENT), 0).Else(failed)
	}
	b.Go(failed)
	next := b.Space(8)
	for i, part := range parts {
		var made steps.Label
		b.Here(&from[i])
		b.CallOn("", unix.SYS_MKDIRAT, to, b.text(part), 0o755).Then(&made).Optional()
		b.Compare("", steps.LastErrno, all, uint64(unix.EEXIST), 0).Else(failed)
		b.Here(&made)
		b.open(to, part, dirPath|unix.O_NOFOLLOW, beneath, next, failed)
		b.close(to)
		b.Copy(to, next)
	}
	b.Here(&done)
}

// touch opens the file name below root as O_PATH and stores it at to; it is
// made empty if missing, with the directories above it. A last component that
// is a symbolic link is followed inside the root when it leads somewhere.
func (b *builder) touch(root steps.Ref, name string, to steps.Ref) {
	var done, missing, fatal steps.Label
	b.open(root, name, unix.O_PATH, inRoot, to, &missing)
	b.Go(&done)
	b.Here(&fatal)
	b.FailAgain(b.about + "create " + name)
	b.Here(&missing)
	b.Compare("", steps.LastErrno, all, uint64(unix.ENOENT), 0).Else(&fatal)
	dir := b.Space(8)
	b.mkdirAll(root, path.Dir(name), dir)
	b.create(dir, path.Base(name), 0o644, &fatal)
	b.open(dir, path.Base(name), unix.O_PATH, beneath, to, &fatal)
	b.close(dir)
	b.Here(&done)
}

// create makes an empty file unless there is something of that name.
func (b *builder) create(dir steps.Ref, name string, mode uint64, failed *steps.Label) {
	var made, done steps.Label
	fd := b.Space(8)
	b.CallOn("", unix.SYS_OPENAT, dir, b.text(name), unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY, mode).Store(fd).Then(&made).Optional()
	b.Compare("", steps.LastErrno, all, uint64(unix.EEXIST), 0).Then(&done).Else(failed)
	b.Here(&made)
	b.close(fd)
	b.Here(&done)
}

// attach mounts the tree at fd on the open directory or file at target.
func (b *builder) attach(fd, target steps.Ref) {
	b.CallFrom(b.about+"move_mount", unix.SYS_MOVE_MOUNT, []steps.From{{Arg: 0, Ref: fd}, {Arg: 2, Ref: target}},
		0, b.text(""), 0, b.text(""), unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// setAttr changes MOUNT_ATTR_* of the mount that the descriptor at fd is the
// root of, or of all below, too; propagation 0 leaves that.
func (b *builder) setAttr(fd steps.Ref, what string, set, clr, propagation uint64, recursive bool) {
	if set|clr|propagation == 0 {
		return
	}
	if (set|clr)&unix.MOUNT_ATTR__ATIME != 0 {
		clr |= unix.MOUNT_ATTR__ATIME // the kernel wants the field cleared as a whole
	}
	flags := uint64(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	b.on(fd, what, unix.SYS_MOUNT_SETATTR, b.text(""), flags, b.mountAttr(set, clr, propagation), mountAttrSize)
}

const mountAttrSize = 32

// mountAttr is a struct mount_attr.
func (b *builder) mountAttr(set, clr, propagation uint64) uint64 {
	var a []byte
	for _, n := range []uint64{set, clr, propagation, 0} {
		a = binary.LittleEndian.AppendUint64(a, n)
	}
	return uint64(b.Bytes(a))
}

// setPropagation applies MS_* propagation, with MS_REC for the whole tree.
func (b *builder) setPropagation(fd steps.Ref, what string, how uint64) {
	b.setAttr(fd, what, 0, 0, how&^unix.MS_REC, how&unix.MS_REC != 0)
}
