package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The kinds of resources.
const (
	RAM       Kind = "ram"
	Layers    Kind = "layers"
	RootDisk  Kind = "root-disk"
	Shared    Kind = "shared-disk"
	RawDisk   Kind = "raw-disk"
	DirRO     Kind = "dir-ro"
	DirRW     Kind = "dir-rw"
	Tmpfs     Kind = "tmpfs"
	Network   Kind = "network"
	Port      Kind = "port"
	TCP       Kind = "tcp"
	Vsock     Kind = "vsock"
	Env       Kind = "env"
	Secret    Kind = "secret"
	Stream    Kind = "stream"
	Processor Kind = "cpu"
	Limits    Kind = "limits"
	Device    Kind = "device"
	Identity  Kind = "identity"
	Layer     Kind = "layer"     // that the workload writes to, where it is not in a guest's memory
	Privilege Kind = "privilege" // beyond those that every container has
)

// smallDir is up to where a read-only directory is copied without being asked
// for, in bytes.
const smallDir = 64 << 20

// rule is what is done with a kind by default, and when it is refused.
type rule struct {
	binding    Binding
	attachment Attachment
	action     Action
	reason     string
	allowed    []Action                    // by --bind
	inRAM      bool                        // what is carried is part of the guest's memory
	check      func(r Row, f Facts) string // why it cannot be, or ""
}

// fits choose the action, with its reason, where it depends on the destination.
var fits = map[Kind]func(r Resource, f Facts) (Action, string){
	Layers: func(r Resource, f Facts) (Action, string) {
		if slices.Contains(f.Images, r.Name) {
			return Rebind, "the destination has the image"
		}
		return Copy, "the destination lacks the image: carried along first"
	},
}

// rules is the table of section 9.
var rules = map[Kind]rule{
	RAM: {ByValue, Unattached, Move, "pre-copied", []Action{Move}, true, nil},
	Layers: {ByValue, Unattached, Rebind, "", []Action{Rebind, Copy}, false, func(r Row, f Facts) string {
		switch {
		case slices.Contains(f.Images, r.Name):
		case r.Action == Rebind:
			return fmt.Sprintf("the destination lacks the image %s (%s): pull it there, or let it be carried along (=copy)", r.Name, r.Detail)
		case f.Image == 0:
			return fmt.Sprintf("the destination lacks the image %s (%s) and takes none in: pull it there", r.Name, r.Detail)
		case r.Bytes > f.Image:
			return fmt.Sprintf("an image of %d MiB has to be carried along, the destination takes %d at most: pull %s there", r.Bytes>>20, f.Image>>20, r.Detail)
		}
		return ""
	}},
	RootDisk: {ByIdentifier, Fastened, Move, "carried along", []Action{Move, Copy}, false, nil},
	Shared: {ByIdentifier, Unattached, Ref, "both hosts see it; the lock changes hands", []Action{Ref}, false, func(r Row, f Facts) string {
		if got := f.Shared[r.Name]; got != r.Detail {
			return fmt.Sprintf("the destination sees another disk there: marker %q, want %q", got, r.Detail)
		}
		return ""
	}},
	RawDisk: {ByIdentifier, Fastened, Refuse, "a local disk stays with its host, unless it is to be copied (=move)", []Action{Move}, false, nil},
	DirRO: {ByIdentifier, Fastened, Copy, "small and read-only", []Action{Copy, Rebind}, false, func(r Row, f Facts) string {
		if r.Action == Copy && r.Reason != askedFor && r.Bytes > smallDir {
			return fmt.Sprintf("%d MiB are more than the %d that are copied without being asked for", r.Bytes>>20, smallDir>>20)
		}
		return pathThere(r, f)
	}},
	DirRW:   {ByIdentifier, Fastened, Refuse, "a writable directory stays with its host (=rebind:PATH names another)", []Action{Rebind}, false, pathThere},
	Tmpfs:   {ByValue, Unattached, Move, "part of the guest's memory", []Action{Move}, true, nil},
	Network: {ByType, Fixed, Rebind, "the network of that name there; addresses go along and are announced", []Action{Rebind}, false, networkThere},
	Port: {ByIdentifier, Fixed, Rebind, "published there", []Action{Rebind, Drop, Ref}, false, func(r Row, f Facts) string {
		if r.Action == Rebind && slices.Contains(f.Busy, r.Name) {
			return fmt.Sprintf("port %s is taken at the destination (=drop gives it up)", r.Name)
		}
		return ""
	}},
	TCP:   {ByIdentifier, Fixed, Move, "part of the guest's memory; lives on if the address does", []Action{Move, Drop}, true, nil},
	Vsock: {ByType, Fixed, Rebind, "a new CID; connections are reset", []Action{Rebind}, false, nil},
	Env:   {ByValue, Unattached, Move, "part of the guest's memory", []Action{Move}, true, nil},
	Secret: {ByIdentifier, Fastened, Rebind, "from the destination's own store", []Action{Rebind, Drop}, false, func(r Row, f Facts) string {
		if r.Action == Rebind && !slices.Contains(f.Secrets, r.Name) {
			return fmt.Sprintf("the destination has no secret called %s; secrets are never carried", r.Name)
		}
		return ""
	}},
	Stream:    {ByIdentifier, Fixed, Drop, "attached clients are told where the workload went", []Action{Drop, Ref}, false, nil},
	Processor: {ByType, Fastened, Rebind, "all features that the guest sees are there", []Action{Rebind}, false, nil},
	Limits:    {ByType, Fixed, Rebind, "reserved there before anything is sent", []Action{Rebind}, false, nil},
	Device:    {ByType, Fixed, Refuse, "a device of the host cannot go along (unplug it first)", nil, false, nil},
	Layer:     {ByIdentifier, Fastened, Move, "packed while the workload stands still", []Action{Move}, false, nil},
	Privilege: {ByType, Fixed, Refuse, "the destination gives nobody from outside more than every container has", nil, false, nil},
	Identity: {ByIdentifier, Unattached, Move, "the machine stays itself", []Action{Move}, false, func(r Row, f Facts) string {
		if slices.Contains(f.Running, r.Name) {
			return "a machine of that identity runs at the destination"
		}
		return ""
	}},
}

// askedFor is the reason of rows that a --bind made.
const askedFor = "asked for"

func pathThere(r Row, f Facts) string {
	if r.Action != Rebind {
		return ""
	}
	path := r.Arg
	if path == "" {
		path = r.Name
	}
	if !strings.HasPrefix(path, "/") {
		return fmt.Sprintf("%q is no absolute path", path)
	}
	if why := f.Unfit[path]; why != "" {
		return fmt.Sprintf("%s at the destination: %.512q", path, why)
	}
	if !slices.Contains(f.Paths, path) {
		return fmt.Sprintf("the destination has no directory %s for what comes (hvctl migrate receive --share)", path)
	}
	return ""
}

func networkThere(r Row, f Facts) string {
	name := r.Arg
	if name == "" {
		name = r.Detail
	}
	if !slices.Contains(f.Networks, name) {
		return fmt.Sprintf("the destination has no network %s (=rebind:NAME takes another)", name)
	}
	return ""
}

// kinds returns all kinds in order.
func kinds() (names []string) {
	for _, k := range slices.Sorted(maps.Keys(rules)) {
		names = append(names, string(k))
	}
	return names
}
