package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hvctl/hvctl/internal/capability"
)

// Confinement is what the process of a VM says of how it is confined: what
// `hvctl inspect` calls confinement.
type Confinement struct {
	Landlock     int      `json:"landlock"`
	Root         bool     `json:"root"`
	User         int      `json:"user"`
	Seccomp      bool     `json:"seccomp"`
	Capabilities []string `json:"capabilities"`
	Sockets      bool     `json:"sockets"`
	Programs     bool     `json:"programs"`
	Missing      []string `json:"missing"`
	Allows       []string `json:"allows"`
}

// Self looks at the process pid of a VM: what its threads are held to as the
// kernel tells it, and, where the kernel does not, as said has it; nil: the process
// does not say. sys is in place of /, for tests.
func Self(sys string, pid int, said *Confinement) ([]Check, error) {
	threads, err := readThreads(filepath.Join(sys, "proc", strconv.Itoa(pid)))
	if err != nil {
		return nil, err
	}
	if said == nil {
		said = &Confinement{Missing: []string{"the process does not say that it is confined: it was started by an earlier hvctl, or is not set up yet"}}
	}
	return []Check{
		every(threads, Check{Name: "privileges", Why: "else a program with the setuid bit would have more of them"}, "NoNewPrivs", "1", "no thread can get new privileges (no_new_privs)"),
		every(threads, Check{Name: "system calls", Why: "the kernel's other system calls are no way out then"}, "Seccomp", "2", "those of every thread are filtered (seccomp)"),
		powers(threads, said),
		selfFiles(said),
		selfRoot(said),
		selfDoor("sockets", said.Sockets, "it can make none", "it can make sockets", "the host's network and other programs' sockets are out of reach without", said),
		selfDoor("programs", said.Programs, "it can start none", "it can start programs, confined as it is", "what it cannot do itself, others could do for it", said),
		selfUser(threads, said),
	}, nil
}

// readThreads reads the status of every thread of a process.
func readThreads(dir string) ([]map[string]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "task", "*", "status"))
	if err != nil {
		return nil, err
	}
	var all []map[string]string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		fields := map[string]string{}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(line, ":")
			fields[key] = strings.TrimSpace(value)
		}
		all = append(all, fields)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no such process, or none that you may look at", dir)
	}
	return all, nil
}

func every(threads []map[string]string, c Check, key, want, detail string) Check {
	n := 0
	for _, t := range threads {
		if t[key] == want {
			n++
		}
	}
	if n == len(threads) {
		return good(c, fmt.Sprintf("%s; threads: %d", detail, n))
	}
	return bad(c, Warn, fmt.Sprintf("%d of %d threads are not held back (%s)", len(threads)-n, len(threads), key), "see what is missing below")
}

// powers are the capabilities of all threads together.
func powers(threads []map[string]string, said *Confinement) Check {
	c := Check{Name: "capabilities", Why: "each is a part of root's power over the host"}
	var all uint64
	for _, t := range threads {
		for _, set := range []string{"CapEff", "CapPrm", "CapInh", "CapAmb"} {
			n, err := strconv.ParseUint(t[set], 16, 64)
			if err != nil {
				return bad(c, Warn, fmt.Sprintf("%s %q is no set of them", set, t[set]), "is this Linux?")
			}
			all |= n
		}
	}
	if all == 0 {
		return good(c, "none")
	}
	var names []string
	for n, name := range capability.Names {
		if all&(1<<n) != 0 {
			names = append(names, name)
		}
	}
	return bad(c, Warn, strings.Join(names, " "), reasons(said))
}

func selfFiles(said *Confinement) Check {
	c := Check{Name: "files", Why: "the host's other files, and other VMs' disks, are out of reach then"}
	if said.Landlock > 0 {
		return good(c, fmt.Sprintf("only this VM's own (Landlock, version %d)", said.Landlock))
	}
	return bad(c, Warn, "all that its user may open", reasons(said))
}

func selfRoot(said *Confinement) Check {
	c := Check{Name: "root", Why: "what is not there cannot be found, whatever the kernel checks"}
	if said.Root {
		return good(c, "a directory with this VM's own files only, in mount, IPC and UTS namespaces of its own")
	}
	return bad(c, Warn, "the host's root directory and namespaces", cmp.Or(strings.Join(slices.Concat(said.Missing, said.Allows), "; "), "root has hvctl make one; members of the group kvm have no right to"))
}

func selfDoor(name string, open bool, closed, detail, why string, said *Confinement) Check {
	c := Check{Name: name, Why: why}
	if !open && said.Seccomp {
		return good(c, closed)
	}
	return bad(c, Warn, detail, reasons(said))
}

func selfUser(threads []map[string]string, said *Confinement) Check {
	c := Check{Name: "user", Why: "files and processes of that user are its own"}
	var ids []string
	for _, t := range threads {
		for _, id := range strings.Fields(t["Uid"]) {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	if slices.Contains(ids, "0") {
		return bad(c, Warn, "root, with what the lines above leave of that", reasons(said)+"; or run hvctl as a member of the group kvm")
	}
	if said.User != 0 && slices.Equal(ids, []string{strconv.Itoa(said.User)}) {
		return good(c, "user ID "+ids[0]+", this VM's own")
	}
	return good(c, "user ID "+strings.Join(ids, ", "))
}

// reasons are why something is left open.
func reasons(said *Confinement) string {
	if all := slices.Concat(said.Missing, said.Allows); len(all) > 0 {
		return strings.Join(all, "; ")
	}
	return "none: it needs that"
}
