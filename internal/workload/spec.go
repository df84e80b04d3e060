package workload

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrNoCommand means neither the user nor the image says what to run.
var ErrNoCommand = errors.New("no command: the image has none, give one after the image's name")

// DefaultPath is PATH for images that do not set it.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ImageDefaults is the part of an OCI image's configuration that says how to
// run it. It repeats image-spec's fields so that this package, which the
// owner processes link, needs no image library.
type ImageDefaults struct {
	Entrypoint, Cmd, Env []string
	User, WorkingDir     string
	StopSignal           string
	Labels               map[string]string
}

// SpecOptions is what a user may say about the first process. The zero value
// takes everything from the image.
type SpecOptions struct {
	Image ImageDefaults
	// Entrypoint replaces the image's, and drops the image's Cmd with it. Nil
	// keeps the image's; one empty string clears it.
	Entrypoint []string
	Args       []string // replaces the image's Cmd
	Env        []string // K=V, or K alone to remove it
	Cwd        string   // empty: the image's, else "/"
	User       string   // name|uid[:group|gid]; empty: the image's, else root
	Hostname   string
	Terminal   bool
	Columns    uint // terminal size; 0: unknown
	Rows       uint
	ReadOnly   bool
	CapAdd     []string // "NET_ADMIN", "CAP_NET_ADMIN" or "ALL"
	CapDrop    []string
	NoNewPrivs bool
	// Unfiltered leaves out the backend's default system call filter.
	Unfiltered bool
	Rlimits    []specs.POSIXRlimit // on top of DefaultRlimits
	Sysctl     map[string]string
	Mounts     []specs.Mount // beside what the backend always mounts
}

// DefaultRlimits are the limits of a process whose user asked for none.
func DefaultRlimits() []specs.POSIXRlimit {
	return []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1048576, Soft: 1048576}}
}

// NewSpec joins an image's configuration with what the user asked for, with
// docker's rules of precedence. Everything is validated here; it touches
// neither files nor host. Namespaces and the mounts every container has are
// the container backend's business, not the user's, and are not in it.
func NewSpec(o SpecOptions) (*specs.Spec, error) {
	p, err := NewProcess(o)
	if err != nil {
		return nil, err
	}
	if err := CheckHostname(o.Hostname); err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version:  specs.Version,
		Process:  p,
		Root:     &specs.Root{Path: "rootfs", Readonly: o.ReadOnly},
		Hostname: o.Hostname,
		Mounts:   o.Mounts,
	}
	if len(o.Sysctl) > 0 || o.Unfiltered {
		s.Linux = &specs.Linux{Sysctl: maps.Clone(o.Sysctl)}
	}
	if o.Unfiltered {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	}
	return s, nil
}

// NewProcess is NewSpec's process alone; exec uses it with the instance's
// process as the image.
func NewProcess(o SpecOptions) (*specs.Process, error) {
	args, err := commandLine(o)
	if err != nil {
		return nil, err
	}
	env, err := mergeEnv(o.Image.Env, o.Env, o.Terminal)
	if err != nil {
		return nil, err
	}
	cwd := first(o.Cwd, o.Image.WorkingDir, "/")
	if !path.IsAbs(cwd) {
		return nil, fmt.Errorf("working directory %q: not absolute", cwd)
	}
	user, err := ParseUser(first(o.User, o.Image.User))
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(o.CapAdd, o.CapDrop)
	if err != nil {
		return nil, err
	}
	p := &specs.Process{
		Terminal:        o.Terminal,
		User:            user,
		Args:            args,
		Env:             env,
		Cwd:             path.Clean(cwd),
		NoNewPrivileges: o.NoNewPrivs,
		Capabilities:    capabilitySets(caps, user),
		Rlimits:         mergeRlimits(DefaultRlimits(), o.Rlimits),
	}
	if o.Terminal && o.Columns > 0 && o.Rows > 0 {
		p.ConsoleSize = &specs.Box{Width: o.Columns, Height: o.Rows}
	}
	return p, nil
}

func commandLine(o SpecOptions) ([]string, error) {
	entry, cmd := o.Image.Entrypoint, o.Image.Cmd
	if o.Entrypoint != nil {
		entry, cmd = o.Entrypoint, nil
		if len(entry) == 1 && entry[0] == "" {
			entry = nil
		}
	}
	if len(o.Args) > 0 {
		cmd = o.Args
	}
	args := slices.Concat(entry, cmd)
	if len(args) == 0 {
		return nil, ErrNoCommand
	}
	if args[0] == "" {
		return nil, errors.New("command: the program's name is empty")
	}
	for _, a := range args {
		if strings.IndexByte(a, 0) >= 0 {
			return nil, fmt.Errorf("argument %q: has a NUL byte", a)
		}
	}
	return args, nil
}

// mergeEnv lays over's variables on base's, in base's order, new ones last.
func mergeEnv(base, over []string, terminal bool) ([]string, error) {
	env := []string{"PATH=" + DefaultPath}
	if terminal {
		env = append(env, "TERM=xterm")
	}
	at := map[string]int{}
	for i, kv := range env {
		k, _, _ := strings.Cut(kv, "=")
		at[k] = i
	}
	for _, kv := range slices.Concat(base, over) {
		k, _, set := strings.Cut(kv, "=")
		switch i, known := at[k]; {
		case k == "" || strings.IndexByte(kv, 0) >= 0:
			return nil, fmt.Errorf("environment variable %q: want NAME=VALUE", kv)
		case set && known:
			env[i] = kv
		case set:
			at[k] = len(env)
			env = append(env, kv)
		case known:
			env[i] = ""
			delete(at, k)
		}
	}
	return slices.DeleteFunc(env, func(s string) bool { return s == "" }), nil
}

// ParseUser reads "name|uid[:group|gid]". Names can only be looked up in the
// instance's own /etc/passwd, so the text is kept in Username whenever there
// is something to look up: a name, or a uid whose group was not given. UID
// and GID hold what is known already.
func ParseUser(s string) (specs.User, error) {
	if s == "" {
		return specs.User{}, nil
	}
	u := specs.User{Username: s}
	name, group, hasGroup := strings.Cut(s, ":")
	if name == "" || (hasGroup && group == "") || strings.ContainsAny(s, "\x00\n/") || len(s) > 256 {
		return u, fmt.Errorf("user %q: want NAME|UID[:GROUP|GID]", s)
	}
	uid, uidNum, err := parseID(name)
	if err != nil {
		return u, err
	}
	gid, gidNum, err := parseID(group)
	if err != nil {
		return u, err
	}
	u.UID, u.GID = uid, gid
	if uidNum && gidNum {
		u.Username = ""
	}
	return u, nil
}

func parseID(s string) (id uint32, numeric bool, err error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 { // (uid_t)-1 means "do not change" to the kernel
		return 0, false, fmt.Errorf("user or group ID %s: out of range", s)
	}
	return uint32(n), true, nil
}

// CheckHostname refuses what sethostname(2) or a resolver would choke on.
func CheckHostname(h string) error {
	if len(h) > 63 {
		return fmt.Errorf("hostname %q: longer than 63 bytes", h)
	}
	for i, c := range []byte(h) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '-' && c != '.' && c != '_') {
			return fmt.Errorf("hostname %q: use letters, digits, '-' and '.'", h)
		}
	}
	return nil
}

func mergeRlimits(base, over []specs.POSIXRlimit) []specs.POSIXRlimit {
	for _, r := range over {
		i := slices.IndexFunc(base, func(b specs.POSIXRlimit) bool { return b.Type == r.Type })
		if i < 0 {
			base = append(base, r)
		} else {
			base[i] = r
		}
	}
	return base
}

func first(s ...string) string {
	for _, v := range s {
		if v != "" {
			return v
		}
	}
	return ""
}
