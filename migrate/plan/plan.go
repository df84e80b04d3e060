package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Binding is how the workload means a resource.
type Binding string

// The strengths of binding, the strongest first.
const (
	ByIdentifier Binding = "identifier" // this very one
	ByValue      Binding = "value"      // one with this content
	ByType       Binding = "type"       // any of this kind
)

// Attachment is how a resource holds to its host.
type Attachment string

// The ways of attachment.
const (
	Unattached Attachment = "unattached" // can be moved easily
	Fastened   Attachment = "fastened"   // can be moved at a cost
	Fixed      Attachment = "fixed"      // cannot be moved
)

// Action is what a migration does with a resource.
type Action string

// The actions.
const (
	Move   Action = "move"   // it goes along and is gone at the source
	Copy   Action = "copy"   // the destination gets one of the same content
	Rebind Action = "rebind" // the destination's own takes its place
	Ref    Action = "ref"    // it stays where it is and is used from there
	Drop   Action = "drop"   // the workload loses it
	Refuse Action = "refuse" // no migration
)

// Kind names a rule.
type Kind string

// Resource is one thing that the workload at the source is bound to.
type Resource struct {
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`             // unique within the kind: a path, a digest, a port
	Detail string `json:"detail,omitempty"` // what the rule compares: a network, a marker, a path at the destination
	Bytes  uint64 `json:"bytes,omitempty"`  // to be moved or copied
}

// Facts are what the destination knows of itself.
type Facts struct {
	Memory   uint64            `json:"memory_bytes"` // free, for a guest
	Disk     uint64            `json:"disk_bytes"`   // free, for layers and disks
	Images   []string          `json:"images,omitempty"`
	Image    uint64            `json:"image_bytes,omitempty"` // the largest image that is taken in; 0: none is
	Networks []string          `json:"networks,omitempty"`
	Busy     []string          `json:"busy_ports,omitempty"` // "tcp/8080"
	Secrets  []string          `json:"secrets,omitempty"`    // names only
	Paths    []string          `json:"paths,omitempty"`      // of those that the source asked for, those that exist
	Unfit    map[string]string `json:"unfit,omitempty"`      // of those, why one cannot be had
	Shared   map[string]string `json:"shared,omitempty"`     // path of a shared disk: the marker found in it
	Running  []string          `json:"running,omitempty"`    // identities of machines that run there
	CPU      CPU               `json:"cpu"`
}

// Bind is a user's word on one resource: --bind KIND:NAME=ACTION[:ARG].
type Bind struct {
	Kind   Kind
	Name   string
	Action Action
	Arg    string
}

// ParseBind reads the value of a --bind flag. Names may hold colons: the kind
// ends at the first, and the action begins after the last "=".
func ParseBind(s string) (Bind, error) {
	what, how, ok := cutLast(s, "=")
	kind, name, ok2 := strings.Cut(what, ":")
	if !ok || !ok2 || kind == "" || name == "" {
		return Bind{}, fmt.Errorf("--bind %q: want KIND:NAME=ACTION[:ARG]", s)
	}
	action, arg, _ := strings.Cut(how, ":")
	b := Bind{Kind(kind), name, Action(action), arg}
	r, ok := rules[b.Kind]
	if !ok {
		return Bind{}, fmt.Errorf("--bind %q: no kind %q; there are %s", s, kind, strings.Join(kinds(), ", "))
	}
	if b.Action != Refuse && !slices.Contains(r.allowed, b.Action) {
		return Bind{}, fmt.Errorf("--bind %q: %s can be %v, not %q", s, kind, r.allowed, action)
	}
	return b, nil
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Row is what the plan says of one resource.
type Row struct {
	Resource
	Binding    Binding    `json:"binding"`
	Attachment Attachment `json:"attachment"`
	Action     Action     `json:"action"`
	Arg        string     `json:"arg,omitempty"` // of a --bind
	Reason     string     `json:"reason"`
}

// Plan is what a migration will do. It is what the source offers: the
// destination does nothing that is not in it.
type Plan struct {
	Rows []Row `json:"rows"`
	// Warnings are for whoever reads the plan before; no offer carries them.
	Warnings []string `json:"warnings,omitempty"`
}

// maxRows bounds a plan that comes from a peer.
const maxRows = 1024

// Parse reads a plan that a peer has made; nothing at all is an empty one.
func Parse(b []byte) (p Plan, err error) {
	if len(b) == 0 {
		return p, nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return Plan{}, fmt.Errorf("plan: %w", err)
	}
	if len(p.Rows) > maxRows {
		return Plan{}, fmt.Errorf("plan: %d rows, at most %d", len(p.Rows), maxRows)
	}
	return p, nil
}

// Action returns what becomes of a resource; "" when the plan does not name it.
func (p Plan) Action(kind Kind, name string) Action {
	for _, r := range p.Rows {
		if r.Kind == kind && r.Name == name {
			return r.Action
		}
	}
	return ""
}

// Make judges every resource; guest is the processor as the guest sees it. A refusal is a row, not an error: the user sees
// all of them at once. The error is for input that makes no sense: an unknown
// kind, two resources of one name, a bind without its resource.
func Make(resources []Resource, guest CPU, f Facts, binds []Bind) (Plan, error) {
	var p Plan
	word := map[[2]string]Bind{}
	for _, b := range binds {
		word[[2]string{string(b.Kind), b.Name}] = b
	}
	seen := map[[2]string]bool{}
	left := budget{f.Memory, f.Disk}
	for _, r := range resources {
		rule, ok := rules[r.Kind]
		key := [2]string{string(r.Kind), r.Name}
		switch {
		case !ok:
			return Plan{}, fmt.Errorf("the source has a %q called %q, of which this hvctl knows nothing", r.Kind, r.Name)
		case seen[key]:
			return Plan{}, fmt.Errorf("the source lists %s %s twice", r.Kind, r.Name)
		}
		seen[key] = true
		row := Row{Resource: r, Binding: rule.binding, Attachment: rule.attachment, Action: rule.action, Reason: rule.reason}
		if b, ok := word[key]; ok {
			row.Action, row.Arg, row.Reason = b.Action, b.Arg, askedFor
			delete(word, key)
		} else if fit := fits[r.Kind]; fit != nil {
			row.Action, row.Reason = fit(r, f)
		}
		why := refusal(row, rule, f, &left)
		if r.Kind == Processor && why == "" {
			why = strings.Join(Compare(guest, f.CPU), "; ")
		}
		if why != "" {
			row.Action, row.Reason = Refuse, why
		}
		p.Rows = append(p.Rows, row)
	}
	for _, b := range word {
		return Plan{}, fmt.Errorf("--bind names %s %s, which the workload does not have", b.Kind, b.Name)
	}
	return p, nil
}

// budget is what is left at the destination while rows take from it.
type budget struct{ memory, disk uint64 }

func (b *budget) take(have *uint64, n uint64, what string) string {
	if n > *have {
		return fmt.Sprintf("needs %d MiB of %s, %d are free at the destination", (n+1<<20-1)>>20, what, *have>>20)
	}
	*have -= n
	return ""
}

// refusal returns why a row cannot be, or "".
func refusal(r Row, rule rule, f Facts, left *budget) string {
	if r.Action == Refuse {
		return r.Reason
	}
	if rule.check != nil {
		if why := rule.check(r, f); why != "" {
			return why
		}
	}
	switch {
	case r.Kind == RAM:
		return left.take(&left.memory, r.Bytes, "memory")
	case (r.Action == Move || r.Action == Copy) && !rule.inRAM:
		return left.take(&left.disk, r.Bytes, "disk")
	}
	return ""
}

// Refusals returns the rows that stop the migration.
func (p Plan) Refusals() (rows []Row) {
	for _, r := range p.Rows {
		if r.Action == Refuse {
			rows = append(rows, r)
		}
	}
	return rows
}

// Bytes returns how much has to be carried.
func (p Plan) Bytes() (n uint64) {
	for _, r := range p.Rows {
		if r.Action == Move || r.Action == Copy {
			n += r.Bytes
		}
	}
	return n
}

// WriteTable prints the plan for people.
func (p Plan) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KIND\tNAME\tBOUND BY\tATTACHED\tACTION\tBYTES\tREASON")
	for _, r := range p.Rows {
		action := string(r.Action)
		if r.Arg != "" {
			action += ":" + r.Arg
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", r.Kind, r.Name, r.Binding, r.Attachment, action, r.Bytes, r.Reason)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range p.Warnings {
		if _, err := fmt.Fprintf(w, "warning: %s\n", s); err != nil {
			return err
		}
	}
	return nil
}
