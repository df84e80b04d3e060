package microvm

import (
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/workload"
	"github.com/hvctl/hvctl/migrate/plan"
	"github.com/hvctl/hvctl/virtio/fs/hostdir"
)

// wantedDir is a directory that a source wants its guest to have at the destination, in place
// of one that the guest has mounted.
type wantedDir struct {
	Path     string         `json:"path"` // the destination's
	ReadOnly bool           `json:"readOnly,omitempty"`
	Files    []hostdir.Name `json:"files,omitempty"` // what the guest holds of it, as much as is asked for
}

const (
	// maxNames bounds the names that are asked for, in bytes: a question has 256 KiB.
	maxNames = 160 << 10
	// maxWanted bounds the directories.
	maxWanted = 16
)

// wantedDirs are those that binds name, with what the guest holds of them now.
func (v *VM) wantedDirs(binds []plan.Bind) (dirs []wantedDir) {
	left := maxNames
	for _, b := range binds {
		dev := v.shares[b.Name]
		if b.Kind != plan.DirRO && b.Kind != plan.DirRW || b.Action != plan.Rebind || b.Arg == "" || dev == nil {
			continue
		}
		d := wantedDir{Path: b.Arg, ReadOnly: b.Kind == plan.DirRO, Files: dev.Names(left)}
		for _, n := range d.Files {
			left -= 2*len(n.Path) + 48
		}
		dirs = append(dirs, d)
	}
	return dirs
}

// lent tells why a guest from outside cannot have the directory path here; "" when it
// can. It has to be one that this side's user has named: a guest that writes to it could
// put a link to any other below it.
func lent(all []workload.Lent, path string, readOnly bool) string {
	i := slices.IndexFunc(all, func(l workload.Lent) bool { return l.Path == path })
	switch {
	case i < 0:
		return "it is not lent to what comes: hvctl migrate receive --share " + path
	case all[i].ReadOnly && !readOnly:
		return "it is lent for reading only, and the guest writes"
	}
	return ""
}

// unfit tells why the guest cannot go on in d; "" when it can, as far as it has said what it
// holds.
func unfit(all []workload.Lent, d wantedDir) string {
	if why := lent(all, d.Path, d.ReadOnly); why != "" {
		return why
	}
	if st, err := os.Stat(d.Path); err != nil || !st.IsDir() {
		return "there is no such directory"
	}
	fs, err := hostdir.New(hostdir.Options{Path: d.Path, ReadOnly: true})
	if err != nil {
		return err.Error()
	}
	defer fs.Close()
	lacking, err := fs.Lacks(d.Files)
	switch {
	case err != nil:
		return err.Error()
	case len(lacking) > 1:
		return fmt.Sprintf("it lacks %q and %d more of %d files that the guest holds", lacking[0].Path, len(lacking)-1, len(d.Files))
	case len(lacking) == 1:
		return fmt.Sprintf("it lacks %q, which the guest holds", lacking[0].Path)
	}
	return ""
}

// lend gives a guest that comes the directories that the plan names and this side's user
// lends, and refuses it when it has any other.
func lend(mounts []specs.Mount, p plan.Plan, all []workload.Lent) error {
	for i, m := range mounts {
		if !isShare(m) {
			continue
		}
		kind, readOnly := plan.DirRW, slices.Contains(m.Options, "ro")
		if readOnly {
			kind = plan.DirRO
		}
		j := slices.IndexFunc(p.Rows, func(r plan.Row) bool { return r.Kind == kind && r.Name == m.Destination && r.Action == plan.Rebind })
		if j < 0 {
			return fmt.Errorf("%w: %s is %s of the source's host", workload.ErrUnsupported, m.Destination, m.Source)
		}
		path := p.Rows[j].Arg
		if why := lent(all, path, readOnly); why != "" {
			return fmt.Errorf("%w: %s for %s: %s", workload.ErrUnsupported, path, m.Destination, why)
		}
		if st, err := os.Stat(path); err != nil || !st.IsDir() {
			return fmt.Errorf("%w: %s for %s: there is no such directory", workload.ErrUnsupported, path, m.Destination)
		}
		mounts[i].Source = path
	}
	return nil
}
