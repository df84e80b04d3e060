package result_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/hvctl/hvctl/internal/bench/result"
)

const schemaFile = "../../../docs/bench-result.schema.json"

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func valid(t *testing.T, s *jsonschema.Schema, b []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

func TestRecordedRunsAreWhatTheSchemaSays(t *testing.T) {
	s, n := schema(t), 0
	err := filepath.WalkDir("../../../docs/results", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != result.File {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n++
		if err := valid(t, s, b); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		return nil
	})
	if err != nil || n == 0 {
		t.Errorf("%d results, %v", n, err)
	}
}

// full has something in every field.
func full(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		full(v.Elem())
	case reflect.Struct:
		if _, ok := reflect.TypeAssert[*time.Time](v.Addr()); ok {
			v.Set(reflect.ValueOf(time.Unix(1e9, 0).UTC()))
			return
		}
		for _, field := range v.Fields() {
			full(field)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		full(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		e := reflect.New(v.Type().Elem()).Elem()
		full(e)
		v.SetMapIndex(reflect.ValueOf("key"), e)
	case reflect.String:
		v.SetString("B")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint64:
		v.SetUint(1)
	case reflect.Float64:
		v.SetFloat(1)
	default:
		panic("a field of kind " + v.Kind().String())
	}
}

func TestSchemaKnowsEveryFieldAndNoOther(t *testing.T) {
	var r result.Result
	full(reflect.ValueOf(&r).Elem())
	r.Kind = "run"
	b, err := json.Marshal(&r)
	if err != nil {
		t.Fatal(err)
	}
	if err := valid(t, schema(t), b); err != nil {
		t.Error(err)
	}
	var written map[string]any
	if err := json.Unmarshal(b, &written); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Properties map[string]any
		Defs       map[string]struct{ Properties map[string]any } `json:"$defs"`
	}
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	compare := func(what string, props map[string]any, v any) {
		have, _ := v.(map[string]any)
		for name := range props {
			if _, ok := have[name]; !ok {
				t.Errorf("the schema's %s has %q, a result has not", what, name)
			}
		}
	}
	first := func(name string) any { return written[name].([]any)[0] }
	compare("result", s.Properties, written)
	for def, v := range map[string]any{
		"plan": written["plan"], "image": written["image"], "sample": first("samples"), "fact": first("facts"), "control": first("controls"),
		"crowd": first("density"), "move": first("moves"), "pressure": first("machine"),
	} {
		compare(def, s.Defs[def].Properties, v)
	}
}

func TestSchemaRefusesWhatNoRunWrites(t *testing.T) {
	s := schema(t)
	b, err := os.ReadFile("../../../docs/results/bench/result.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(map[string]any){
		"another version": func(m map[string]any) { m["schema"] = 2 },
		"no mode":         func(m map[string]any) { delete(m, "mode") },
		"no targets":      func(m map[string]any) { m["plan"].(map[string]any)["targets"] = []any{} },
		"a word":          func(m map[string]any) { m["samples"].([]any)[0].(map[string]any)["value"] = "fast" },
		"an odd field":    func(m map[string]any) { m["samples"].([]any)[0].(map[string]any)["speed"] = 1 },
	} {
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		edit(m)
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if valid(t, s, out) == nil {
			t.Errorf("%s is valid", name)
		}
	}
}
