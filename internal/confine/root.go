package confine

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoRoot says that the root directory stays the host's, and nothing has changed.
var errNoRoot = errors.New("the root directory stays the host's")

// under is where the new root is made: something that every host has, which is covered
// for a moment.
const under = "/dev"

// place is what of the host a rule leaves visible.
type place struct {
	Rule
	fd    int    // O_PATH: it is found by that when the new root is in the way
	real  string // its path without links
	mode  uint32
	mount uint64 // which it lies on; 0: unknown
	deep  bool   // other places below it lie on other mounts
}

// enterRoot gives the process a root directory with nothing but what rules name,
// at the same paths, and nothing can be added to it. The process has to be alone in
// its mount namespace, for the root is that of all in it; its threads share theirs.
// What is open stays as it is. On errNoRoot so does everything else.
func enterRoot(rules []Rule) error {
	if err := buildRoot(rules); err != nil {
		return fmt.Errorf("%w: %w", errNoRoot, err)
	}
	// The old root was put onto the new one, and is taken away from there.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return mountError("let go of", "the old root", err)
	}
	return mountError("change to", "/", unix.Chdir("/"))
}

// buildRoot changes the root, and leaves the old one mounted on it.
func buildRoot(rules []Rule) (err error) {
	places, err := findPlaces(rules)
	defer func() {
		for _, p := range places {
			_ = unix.Close(p.fd)
		}
	}()
	if err != nil {
		return err
	}
	// What the host unmounts from now on goes here, too; not the other way round.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return mountError("keep mounts to itself below", "/", err)
	}
	if err := unix.Mount("hvctl", under, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=1m"); err != nil {
		return mountError("mount a tmpfs on", under, err)
	}
	defer func() {
		if err != nil {
			_ = unix.Unmount(under, unix.MNT_DETACH)
		}
	}()
	for i := range places {
		p := &places[i]
		if inSight(places[:i], *p) {
			if p.real == p.Path {
				continue
			}
			if p.Path = p.real; inSight(places[:i], *p) { // a link that is in sight leads there
				continue
			}
		}
		if err := p.show(under); err != nil {
			return err
		}
	}
	// With MS_BIND it is this mount and not a file system that becomes read-only.
	const flags = unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("", under, "", flags, ""); err != nil {
		return mountError("make read-only", under, err)
	}
	if err := unix.Chdir(under); err != nil {
		return mountError("change to", under, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		_ = unix.Chdir("/")
		return mountError("change the root to", under, err) // the initial RAM disk cannot be left, say
	}
	return nil
}

// findPlaces opens what rules name, the outer before the inner.
func findPlaces(rules []Rule) (places []place, err error) {
	rules = slices.Clone(rules)
	slices.SortStableFunc(rules, func(a, b Rule) int { return cmp.Compare(len(a.Path), len(b.Path)) })
	for _, r := range rules {
		p := place{Rule: r}
		switch err := p.find(); {
		case errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return places, err
		case p.real == "/":
			_ = unix.Close(p.fd)
			return places, fmt.Errorf("it may open files in %s", r.Path)
		}
		for i := range places {
			places[i].deep = places[i].deep || places[i].holds(p.Path) && places[i].mount != p.mount
		}
		places = append(places, p)
	}
	return places, nil
}

// find opens p.
func (p *place) find() (err error) {
	if p.fd, err = unix.Open(p.Path, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return &os.PathError{Op: "open", Path: p.Path, Err: err}
	}
	var st unix.Statx_t
	err = unix.Statx(p.fd, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE|unix.STATX_MNT_ID, &st)
	if err == nil {
		p.real, err = os.Readlink(p.at())
	}
	if err != nil {
		_ = unix.Close(p.fd)
		return &os.PathError{Op: "look at", Path: p.Path, Err: err}
	}
	p.mode = uint32(st.Mode) & unix.S_IFMT
	if st.Mask&unix.STATX_MNT_ID != 0 { // Linux 5.8
		p.mount = st.Mnt_id
	}
	return nil
}

// at is a path that leads to p, whatever is mounted over it.
func (p *place) at() string { return fmt.Sprintf("/proc/self/fd/%d", p.fd) }

// holds tells whether path is p or lies below it.
func (p *place) holds(path string) bool {
	return p.Path == path || strings.HasPrefix(path, p.Path+"/")
}

// readOnly tells whether nothing may be changed there.
func (p *place) readOnly() bool { return p.Access&^(Read|Execute) == 0 }

// inSight tells whether one of outer shows all that p does. Then a mount of p's own
// would only keep it from being renamed.
func inSight(outer []place, p place) bool {
	covered := false
	for _, o := range outer { // the last one counts
		if o.holds(p.Path) {
			covered = !o.readOnly() || p.readOnly()
		}
	}
	return covered
}

// show makes p visible below the directory root.
func (p *place) show(root string) error {
	target := filepath.Join(root, p.Path)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	var err error
	if p.mode == unix.S_IFDIR {
		err = os.Mkdir(target, 0o755)
	} else {
		err = unix.Mknod(target, unix.S_IFREG|0o600, 0)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) { // within what is shown read-only
		return err
	}
	bind := uintptr(unix.MS_BIND)
	if p.deep {
		bind |= unix.MS_REC
	}
	if err := unix.Mount(p.at(), target, "", bind, ""); err != nil {
		return mountError("show", p.Path, err)
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NOEXEC)
	if p.mode != unix.S_IFBLK && p.mode != unix.S_IFCHR {
		flags |= unix.MS_NODEV
	}
	var host unix.Statfs_t
	if err := unix.Fstatfs(p.fd, &host); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if p.readOnly() || host.Flags&unix.ST_RDONLY != 0 {
		flags |= unix.MS_RDONLY
	}
	return mountError("make safe", p.Path, unix.Mount("", target, "", flags, ""))
}

func mountError(what, path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", what, path, err)
}
