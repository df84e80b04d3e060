package nscontainer

import (
	"fmt"
	"slices"

	"github.com/hvctl/hvctl/internal/etcfiles"
	"github.com/hvctl/hvctl/internal/workload"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// user looks up who a process runs as, in the image's own tables.
func (c *Container) user(tree *etcfiles.Tree, p *specs.Process) (etcfiles.Creds, error) {
	passwd, err := tree.ReadFile("/etc/passwd", etcfiles.MaxUserFile)
	if err != nil {
		return etcfiles.Creds{}, err
	}
	group, err := tree.ReadFile("/etc/group", etcfiles.MaxUserFile)
	if err != nil {
		return etcfiles.Creds{}, err
	}
	who, err := etcfiles.Lookup(p.User.Username, p.User, passwd, group)
	if err != nil {
		return who, &workload.StartError{Code: workload.ExitOwnFailure, Err: err}
	}
	if !c.ids.Covers(who.UID, who.GID) {
		err := fmt.Errorf("user %d:%d does not exist for a container of an ordinary user; have ranges of IDs given to you in /etc/subuid and /etc/subgid "+
			"(usermod --add-subuids, --add-subgids), and newuidmap and newgidmap installed (package uidmap)", who.UID, who.GID)
		return who, &workload.StartError{Code: workload.ExitOwnFailure, Err: err}
	}
	who.Groups = slices.DeleteFunc(who.Groups, func(g uint32) bool { return !c.ids.Covers(0, g) })
	return who, nil
}

// identify fills in who the process is, and what follows from that.
func identify(cfg *workload.Config, p *specs.Process, who etcfiles.Creds) {
	p.User = specs.User{UID: who.UID, GID: who.GID, AdditionalGids: who.Groups, Umask: p.User.Umask}
	p.Rlimits = feasible(p.Rlimits)
	p.Env = etcfiles.Environment(p.Env, who, cfg.Spec.Hostname, p.Terminal)
}

// tree is the container's tree as its processes see it.
func (c *Container) tree() (*etcfiles.Tree, error) {
	dir, err := c.rootDir()
	if err != nil {
		return nil, err
	}
	return etcfiles.OpenTree(dir)
}

// rootDir leads into the container's mount namespace.
func (c *Container) rootDir() (string, error) {
	if _, err := c.running(); err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/self/fd/%d", c.root.Fd()), nil
}
