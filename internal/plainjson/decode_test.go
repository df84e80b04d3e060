package plainjson

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// record has what there is to meet, beside an OCI configuration.
type record struct {
	Spec   *specs.Spec       `json:"spec"`
	When   time.Time         `json:"when"`
	Raw    json.RawMessage   `json:"raw"`
	Bytes  []byte            `json:"bytes"`
	Any    any               `json:"any"`
	Small  int8              `json:"small"`
	Tagged map[string]uint16 `json:"tagged,omitempty"`
}

const config = `{"ociVersion":"1.3.0","unknown":[1,{"a":null},-1.5e3,"x"],"process":{"terminal":false,"user":{"uid":7,"gid":0,
"additionalGids":[1,2]},"args":["sh","-c","echo \"a\u0026b\" é"],"env":null,"cwd":"/","capabilities":{"bounding":["CAP_KILL"]},
"oomScoreAdj":-5,"rlimits":[{"type":"RLIMIT_NOFILE","hard":1024,"soft":1024}]},"root":{"path":"rootfs","readonly":true},
"mounts":[{"destination":"/proc","type":"proc"},{"destination":"/d","options":[]}],"annotations":{"a":"b","a":"c"},
"linux":{"resources":{"devices":[{"allow":false,"access":"rwm"}],"pids":{"limit":10}},"devices":[{"path":"/dev/x","type":"c",
"major":1,"minor":2,"fileMode":438}],"sysctl":{},"namespaces":[{"type":"pid"}]}}`

// Each is decoded here, or left to package json.
var cases = []struct {
	name, text string
	here       bool
}{
	{"configuration", config, true},
	{"empty", ` { } `, true},
	{"another spelling", `{"OCIVERSION":"1.0.0"}`, false},
	{"twice", `{"hostname":"a","hostname":"b"}`, false},
	{"something behind", `{} {}`, false},
	{"cut off", `{"hostname":"a"`, false},
	{"nothing", `null`, true},
	{"wrong type", `{"hostname":1}`, false},
	{"number too large", `{"process":{"user":{"uid":4294967296}}}`, false},
	{"fraction", `{"process":{"user":{"uid":1.0}}}`, false},
	{"leading zero", `{"process":{"user":{"uid":01}}}`, false},
	{"not UTF-8", "{\"hostname\":\"\xff\"}", false},
	{"control character", "{\"hostname\":\"\n\"}", false},
	{"missing comma", `{"hostname":"a" "domainname":"b"}`, false},
	{"comma at the end", `{"hostname":"a",}`, false},
	{"embedded struct", `{"linux":{"resources":{"blockIO":{"weightDevice":[{"major":1}]}}}}`, false},
	{"bad value of an unknown name", `{"x":nul}`, false},
	{"bad number of an unknown name", `{"x":1-}`, false},
}

func TestDecodesAsPackageJSONOrNotAtAll(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := same(t, []byte(c.text), new(specs.Spec), new(specs.Spec)); got != c.here {
				t.Errorf("decoded here: %v", got)
			}
		})
	}
}

func TestTypesThatDecodeThemselves(t *testing.T) {
	for text, here := range map[string]bool{
		`{"when":"2026-01-02T03:04:05Z","raw":{"a":[1, 2]},"small":-128}`: true,
		`{"when":"yesterday"}`: false,
		`{"raw":null}`:         false,
		`{"bytes":"AAAA"}`:     false,
		`{"any":1}`:            false,
		`{"tagged":{"a":1}}`:   true,
	} {
		if got := same(t, []byte(text), new(record), new(record)); got != here {
			t.Errorf("%s: decoded here: %v", text, got)
		}
	}
	type quoted struct {
		N int `json:",string"`
	}
	if Decode([]byte(`{}`), &quoted{}) || Decode([]byte(`{}`), &record{Small: 1}) || Decode([]byte(`{}`), record{}) {
		t.Error("decoded into what it cannot know")
	}
}

// same decodes text both ways and says whether this package did.
func same(t *testing.T, text []byte, here, there any) bool {
	t.Helper()
	before := reflect.ValueOf(here).Elem().Interface()
	ok := Decode(text, here)
	if !ok {
		if !reflect.DeepEqual(before, reflect.ValueOf(here).Elem().Interface()) {
			t.Errorf("%s: gave up and changed the value", text)
		}
		return false
	}
	if err := json.Unmarshal(text, there); err != nil {
		t.Errorf("%s: package json says %v", text, err)
	} else if !reflect.DeepEqual(here, there) {
		t.Errorf("%s:\n%+v\nwant\n%+v", text, here, there)
	}
	return true
}

func FuzzDecode(f *testing.F) {
	for _, c := range cases {
		f.Add([]byte(c.text))
	}
	f.Add([]byte(`{"spec":{"linux":null},"when":"2026-01-02T03:04:05Z","raw":[1],"tagged":{"a":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		same(t, b, new(specs.Spec), new(specs.Spec))
		same(t, b, new(record), new(record))
	})
}
