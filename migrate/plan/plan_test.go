package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func cpu() CPU {
	return CPU{Vendor: "AuthenticAMD", Features: map[string]uint32{"1.0.ecx": 0x80202000, "7.0.ebx": 0x20}, PhysBits: 40, XSave: 832, TSCkHz: 2_000_000}
}

// facts are of a destination where everything fits.
func facts() Facts {
	return Facts{
		Memory: 1 << 30, Disk: 10 << 30, Image: 64 << 20, Images: []string{"sha256:aa"}, Networks: []string{"default", "dmz"}, Busy: []string{"tcp/80"},
		Secrets: []string{"db"}, Paths: []string{"/srv/a", "/srv/b"}, Shared: map[string]string{"/san/1": "m1"}, CPU: cpu(),
	}
}

func TestMakeDecidesByTheRules(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		name   string
		r      Resource
		bind   string
		action Action
		reason string
	}{
		{"memory fits", Resource{RAM, "ram", "", 512 * mib}, "", Move, "pre-copied"},
		{"memory does not fit", Resource{RAM, "ram", "", 2048 * mib}, "", Refuse, "needs 2048 MiB of memory, 1024 are free"},
		{"image there", Resource{Layers, "sha256:aa", "", 0}, "", Rebind, ""},
		{"image not there", Resource{Layers, "sha256:bb", "", 5 * mib}, "", Copy, "carried along first"},
		{"image not there, and not to be carried", Resource{Layers, "sha256:bb", "", 5 * mib}, "layers:sha256:bb=rebind", Refuse, "lacks the image sha256:bb"},
		{"image too large", Resource{Layers, "sha256:bb", "", 80 * mib}, "", Refuse, "takes 64 at most"},
		{"image carried", Resource{Layers, "sha256:bb", "", 5 * mib}, "layers:sha256:bb=copy", Copy, "asked for"},
		{"root disk", Resource{RootDisk, "root", "", 100 * mib}, "", Move, ""},
		{"root disk too big", Resource{RootDisk, "root", "", 11 << 30}, "", Refuse, "of disk"},
		{"shared disk", Resource{Shared, "/san/1", "m1", 0}, "", Ref, "both hosts"},
		{"shared disk is another", Resource{Shared, "/san/1", "m2", 0}, "", Refuse, `marker "m1", want "m2"`},
		{"raw disk", Resource{RawDisk, "/dev/sdb", "", mib}, "", Refuse, "stays with its host"},
		{"raw disk copied", Resource{RawDisk, "/dev/sdb", "", mib}, "raw-disk:/dev/sdb=move", Move, "asked for"},
		{"small read-only directory", Resource{DirRO, "/etc/x", "", mib}, "", Copy, ""},
		{"large read-only directory", Resource{DirRO, "/etc/x", "", 65 * mib}, "", Refuse, "65 MiB are more"},
		{"large one copied on demand", Resource{DirRO, "/etc/x", "", 65 * mib}, "dir-ro:/etc/x=copy", Copy, ""},
		{"read-only directory of the other host", Resource{DirRO, "/srv/a", "", 65 * mib}, "dir-ro:/srv/a=rebind", Rebind, ""},
		{"writable directory", Resource{DirRW, "/srv/a", "", 0}, "", Refuse, "stays with its host"},
		{"writable directory, another", Resource{DirRW, "/srv/x", "", 0}, "dir-rw:/srv/x=rebind:/srv/b", Rebind, ""},
		{"writable directory, none there", Resource{DirRW, "/srv/x", "", 0}, "dir-rw:/srv/x=rebind:/srv/z", Refuse, "no directory /srv/z"},
		{"relative path", Resource{DirRW, "/srv/x", "", 0}, "dir-rw:/srv/x=rebind:srv", Refuse, "no absolute path"},
		{"tmpfs needs no disk", Resource{Tmpfs, "/tmp", "", 100 << 30}, "", Move, ""},
		{"network", Resource{Network, "eth0", "default", 0}, "", Rebind, ""},
		{"network absent", Resource{Network, "eth0", "lab", 0}, "", Refuse, "no network lab"},
		{"network, another", Resource{Network, "eth0", "lab", 0}, "network:eth0=rebind:dmz", Rebind, ""},
		{"port", Resource{Port, "tcp/8080", "", 0}, "", Rebind, ""},
		{"port busy", Resource{Port, "tcp/80", "", 0}, "", Refuse, "taken"},
		{"port given up", Resource{Port, "tcp/80", "", 0}, "port:tcp/80=drop", Drop, ""},
		{"connections", Resource{TCP, "eth0", "", 0}, "", Move, ""},
		{"vsock", Resource{Vsock, "3", "", 0}, "", Rebind, "reset"},
		{"environment", Resource{Env, "env", "", 0}, "", Move, ""},
		{"secret", Resource{Secret, "db", "", 0}, "", Rebind, ""},
		{"secret not there", Resource{Secret, "tls", "", 0}, "", Refuse, "never carried"},
		{"console", Resource{Stream, "console", "", 0}, "", Drop, ""},
		{"limits", Resource{Limits, "cgroup", "", 0}, "", Rebind, ""},
		{"device", Resource{Device, "/dev/kvm", "", 0}, "", Refuse, "cannot go along"},
		{"identity", Resource{Identity, "u1", "", 0}, "", Move, ""},
		{"processor", Resource{Processor, "cpu", "", 0}, "", Rebind, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var binds []Bind
			if tc.bind != "" {
				b, err := ParseBind(tc.bind)
				if err != nil {
					t.Fatal(err)
				}
				binds = append(binds, b)
			}
			p, err := Make([]Resource{tc.r}, cpu(), facts(), binds)
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Rows[0]; got.Action != tc.action || !strings.Contains(got.Reason, tc.reason) {
				t.Errorf("%s: %s, want %s with %q", got.Action, got.Reason, tc.action, tc.reason)
			}
			if (tc.action == Refuse) != (len(p.Refusals()) == 1) {
				t.Errorf("refusals %v", p.Refusals())
			}
		})
	}
}

func TestRowsShareTheRoom(t *testing.T) {
	p, err := Make([]Resource{{RootDisk, "a", "", 6 << 30}, {RawDisk, "b", "", 6 << 30}}, cpu(), facts(), []Bind{{RawDisk, "b", Move, ""}})
	if err != nil {
		t.Fatal(err)
	}
	if p.Rows[0].Action != Move || p.Rows[1].Action != Refuse || p.Bytes() != 6<<30 {
		t.Errorf("%+v", p.Rows)
	}
}

func TestMakeRefusesInputThatMakesNoSense(t *testing.T) {
	for name, tc := range map[string]struct {
		r []Resource
		b []Bind
	}{
		"unknown kind":          {r: []Resource{{"floppy", "a", "", 0}}},
		"twice":                 {r: []Resource{{Env, "a", "", 0}, {Env, "a", "", 0}}},
		"bind without resource": {b: []Bind{{Port, "tcp/1", Drop, ""}}},
	} {
		if _, err := Make(tc.r, cpu(), facts(), tc.b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, s := range []string{"", "port", "port:tcp/1", "port=drop", ":x=drop", "port:=drop", "floppy:a=move", "ram:ram=drop", "device:/dev/x=move"} {
		if b, err := ParseBind(s); err == nil {
			t.Errorf("--bind %q is %+v", s, b)
		}
	}
}

func TestCompareNamesEveryMissingBit(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(guest, host *CPU)
		want   []string
	}{
		{"equal", func(g, h *CPU) {}, nil},
		{"host has more", func(g, h *CPU) { h.Features["7.0.ebx"], h.PhysBits, h.XSave = ^uint32(0), 48, 4096 }, nil},
		{"two bits", func(g, h *CPU) { g.Features["7.0.ebx"] |= 1 | 1<<16 }, []string{"told of FSGSBASE", "told of AVX512F"}},
		{"a word that the host does not know", func(g, h *CPU) { delete(h.Features, "7.0.ebx") }, []string{"told of AVX2"}},
		{"vendor", func(g, h *CPU) { h.Vendor = "GenuineIntel" }, []string{`by "GenuineIntel"`}},
		{"address bits", func(g, h *CPU) { g.PhysBits = 46 }, []string{"46 bits"}},
		{"xsave", func(g, h *CPU) { g.XSave = 2696 }, []string{"2696 bytes"}},
		{"TSC within tolerance", func(g, h *CPU) { h.TSCkHz = 2_000_499 }, nil},
		{"TSC", func(g, h *CPU) { h.TSCkHz = 2_000_600 }, []string{"cannot scale"}},
		{"TSC that can be scaled", func(g, h *CPU) { h.TSCkHz, h.TSCScale = 3_000_000, true }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, h := cpu(), cpu()
			tc.change(&g, &h)
			got := Compare(g, h)
			if len(got) != len(tc.want) {
				t.Fatalf("%q, want %q", got, tc.want)
			}
			for i, w := range tc.want {
				if !strings.Contains(got[i], w) {
					t.Errorf("%q, want %q", got[i], w)
				}
			}
			f := facts()
			f.CPU = h
			p, err := Make([]Resource{{Processor, "cpu", "", 0}}, g, f, nil)
			if err != nil || (p.Rows[0].Action == Refuse) != (tc.want != nil) {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
}

func TestTableIsReadable(t *testing.T) {
	p, err := Make([]Resource{{Port, "tcp/80", "", 0}, {RAM, "ram", "", 1 << 20}}, cpu(), facts(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := p.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "KIND") || !strings.Contains(lines[1], "refuse") {
		t.Errorf("%s", b.String())
	}
}

// The specification has the same table.
func TestSpecificationListsTheRules(t *testing.T) {
	b, err := os.ReadFile("../../docs/migration-protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	for k, r := range rules {
		want := fmt.Sprintf("| %s | %s x %s | %s |", k, r.binding, r.attachment, r.action)
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, want) }) {
			t.Errorf("section 9 lacks %s", want)
		}
	}
}

func TestAPlanArrivesAsItWasMade(t *testing.T) {
	want, err := Make([]Resource{{Port, "tcp/80", "", 0}, {RAM, "ram", "", 1 << 20}}, cpu(), facts(), []Bind{{Port, "tcp/80", Drop, ""}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(b)
	if err != nil || !reflect.DeepEqual(got, want) || got.Action(Port, "tcp/80") != Drop || got.Action(Port, "tcp/81") != "" {
		t.Errorf("%+v, %v", got, err)
	}
	if p, err := Parse(nil); err != nil || len(p.Rows) != 0 {
		t.Errorf("no plan: %+v, %v", p, err)
	}
	for _, s := range []string{"x", `{"rows":1}`, `{"more":1}`, `{"rows":[` + strings.Repeat("{},", maxRows) + `{}]}`} {
		if _, err := Parse([]byte(s)); err == nil {
			t.Errorf("%.40s is taken", s)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"rows":[{"kind":"port","name":"tcp/80","binding":"identifier","attachment":"fixed","action":"drop","reason":"x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := Parse(b); err == nil && len(p.Rows) > maxRows {
			t.Errorf("%d rows", len(p.Rows))
		}
	})
}

func FuzzParseBind(f *testing.F) {
	f.Add("dir-rw:/srv/x=rebind:/srv/b")
	f.Fuzz(func(t *testing.T, s string) {
		if b, err := ParseBind(s); err == nil && (b.Kind == "" || b.Name == "" || b.Action == "") {
			t.Errorf("%q is %+v", s, b)
		}
	})
}

// Post-copy's price is said before it is paid, in both forms; nothing else warns.
func TestPostCopyIsWarnedOf(t *testing.T) {
	p, err := Make([]Resource{{Kind: RAM, Name: "ram", Bytes: 64 << 20}}, CPU{}, Facts{Memory: 1 << 30}, nil)
	if err != nil || len(p.Warnings) > 0 {
		t.Fatalf("%v, %v", p.Warnings, err)
	}
	p.WarnPostCopy(false)
	p.WarnPostCopy(true)
	var out strings.Builder
	if err := p.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"warning: post-copy: if it writes faster", "warning: post-copy: its memory follows", "64 MiB", "depends on both hosts"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
}
