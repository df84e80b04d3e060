package instance

import "path/filepath"

// Places are what an owner uses of a root beside its instance's directory.
type Places struct {
	Events string // the directory of what happened
	Lock   string // a file, of who removes an instance
	Names  string // the directory of the names
	Groups string // the directory of the notes of cgroups
}

// PlacesOf are those of root, an absolute path.
func PlacesOf(root string) Places {
	return Places{
		Events: filepath.Join(root, eventsDir), Lock: filepath.Join(root, rootLock), Names: filepath.Join(root, namesDir), Groups: filepath.Join(root, groupsDir),
	}
}
