package control

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/hvctl/hvctl/internal/workload"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func document(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromFile("../../docs/control-api.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestDocumentHasExactlyTheRoutes(t *testing.T) {
	var have, want []string
	for path, item := range document(t).Paths.Map() {
		for method := range item.Operations() {
			have = append(have, method+" "+path)
		}
	}
	for _, r := range Routes {
		want = append(want, r.Method+" "+r.Path)
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("the document has\n%s\nthe server\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

// Every field of every type on the wire is in the document, and no other, and
// what is always sent is required.
func TestDocumentHasExactlyTheFields(t *testing.T) {
	doc := document(t)
	types := map[string]any{
		"ErrorBody": ErrorBody{}, "Info": Info{}, "State": workload.State{}, "Port": workload.Port{}, "Exit": workload.Exit{},
		"SignalRequest": SignalRequest{}, "StopRequest": StopRequest{}, "ResizeRequest": ResizeRequest{}, "AttachRequest": AttachRequest{},
		"ExecRequest": ExecRequest{}, "ExecStarted": ExecStarted{}, "Stats": workload.Stats{}, "CgroupStats": workload.CgroupStats{}, "Histogram": workload.Histogram{}, "Range": workload.Range{}, "TraceRequest": workload.TraceRequest{}, "TraceExit": workload.TraceExit{}, "Event": Event{},
		"MigrateRequest": workload.MigrateRequest{}, "MigrationStatus": workload.MigrationStatus{}, "ResolveRequest": ResolveRequest{}, "DumpRequest": DumpRequest{}, "DumpReport": workload.DumpReport{}, "UpgradeRequest": UpgradeRequest{}, "Endpoint": workload.Endpoint{}, "SnapshotRequest": SnapshotRequest{}, "SnapshotReport": workload.SnapshotReport{}, "Update": workload.Update{}, "Device": workload.Device{}, "PlugRequest": workload.PlugRequest{}, "UnplugRequest": workload.UnplugRequest{}, "Copy": workload.Copy{}, "Deadline": workload.Deadline{}, "Task": workload.Task{}, "Resources": workload.Resources{}, "BlockIO": specs.LinuxBlockIO{},
	}
	for name := range doc.Components.Schemas {
		if types[name] == nil {
			t.Errorf("schema %s: no such type", name)
		}
	}
	for name, v := range types {
		s := doc.Components.Schemas[name]
		if s == nil {
			t.Errorf("type %s: no schema", name)
			continue
		}
		var fields, always []string
		typ := reflect.TypeOf(v)
		for field := range typ.Fields() {
			tag, opts, _ := strings.Cut(field.Tag.Get("json"), ",")
			if tag == "-" {
				continue
			}
			fields = append(fields, tag)
			if !strings.Contains(opts, "omit") {
				always = append(always, tag)
			}
		}
		var props []string
		for p := range s.Value.Properties {
			props = append(props, p)
		}
		required := slices.Clone(s.Value.Required)
		for _, l := range [][]string{fields, always, props, required} {
			slices.Sort(l)
		}
		if !slices.Equal(fields, props) {
			t.Errorf("%s: fields %q, properties %q", name, fields, props)
		}
		if !slices.Equal(always, required) {
			t.Errorf("%s: always sent %q, required %q", name, always, required)
		}
	}
}

func TestDocumentKnowsCodesAndEvents(t *testing.T) {
	doc := document(t)
	have := enum(doc, "ErrorBody", "code")
	for _, c := range codes {
		if !slices.Contains(have, c.name) {
			t.Errorf("error code %s is not documented", c.name)
		}
	}
	have = enum(doc, "Event", "type")
	for _, e := range []string{EventStart, EventPause, EventResume, EventSignal, EventUpdate, EventPlug, EventUnplug, EventSnapshot, EventMigrate, EventUpgrade, EventStop, EventExecStart, EventExecExit, EventOOM, EventExit} {
		if !slices.Contains(have, e) {
			t.Errorf("event %s is not documented", e)
		}
	}
}

func enum(doc *openapi3.T, schema, prop string) (out []string) {
	for _, v := range doc.Components.Schemas[schema].Value.Properties[prop].Value.Enum {
		out = append(out, fmt.Sprint(v))
	}
	return out
}

// What the server really sends is what the document says, success and error.
func TestAnswersFitTheDocument(t *testing.T) {
	doc := document(t)
	o := &fakeOwner{}
	c := serveFake(t, o)
	for _, fail := range []error{nil, workload.ErrNotRunning, &workload.StartError{Code: 127, Err: io.EOF}, io.ErrNoProgress} {
		o.fail(fail)
		for _, r := range Routes {
			if r.Path == "/v1/attach" || r.Path == "/v1/copy" || r.Path == "/v1/events" && fail != nil {
				continue
			}
			name := fmt.Sprintf("%s with %v", r.Path, fail)
			body := map[string]string{
				"/v1/signal": `{"signal":"TERM"}`, "/v1/snapshot": `{"dir":"/d"}`, "/v1/dump": `{"file":"/d/core"}`, "/v1/resolve": `{"keep":"source"}`, "/v1/migrate": `{"to":{"address":"unix:/s"}}`, "/v1/plan": `{"to":{"address":"unix:/s"},"binds":["port:tcp/80=drop"]}`, "/v1/upgrade": `{"program":"/p","pid":7}`, "/v1/trace": `{"ports":{"first":1016,"last":1023}}`, "/v1/update": `{"cpuWeight":50}`, "/v1/devices": `{"id":"data","disk":{"path":"/d","readOnly":true}}`, "/v1/devices/remove": `{"id":"data","force":true}`, "/v1/resize": `{"columns":80,"rows":24}`, "/v1/exec": `{"detach":true,"process":{"user":{"uid":0,"gid":0},"args":["x"],"cwd":"/"}}`,
			}[r.Path]
			op := doc.Paths.Value(r.Path).GetOperation(r.Method)
			if r.Method != http.MethodPost {
				body = ""
			}
			if body != "" {
				check(t, name+": request", op.RequestBody.Value.Content.Get("application/json").Schema, []byte(body))
			}
			status, ct, answer := raw(t, c, r.Method, r.Path, body)
			resp := op.Responses.Status(status)
			if resp == nil {
				resp = op.Responses.Default()
				if status < 400 {
					t.Errorf("%s: status %d is not documented", name, status)
				}
			}
			if (status < 300) != (fail == nil) {
				t.Errorf("%s: status %d", name, status)
			}
			if status == 204 {
				if len(answer) != 0 {
					t.Errorf("%s: body %q", name, answer)
				}
				continue
			}
			media := resp.Value.Content.Get(ct)
			if media == nil {
				t.Errorf("%s: content type %q of status %d is not documented", name, ct, status)
				continue
			}
			if strings.HasPrefix(ct, "text/plain") {
				if !strings.HasPrefix(string(answer), "# HELP hvctl_") {
					t.Errorf("%s: %q", name, answer)
				}
				continue
			}
			check(t, name, media.Schema, answer)
		}
	}
}

func check(t *testing.T, name string, s *openapi3.SchemaRef, text []byte) {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Errorf("%s: %v in %q", name, err, text)
		return
	}
	if err := s.Value.VisitJSON(v, openapi3.EnableFormatValidation()); err != nil {
		t.Errorf("%s: %s: %v", name, text, err)
	}
}

// raw sends one request by hand.
func raw(t *testing.T, c *Client, method, path, body string) (status int, contentType string, answer []byte) {
	t.Helper()
	conn, err := c.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	var files []*os.File
	switch {
	case path == "/v1/upgrade":
		files = []*os.File{os.Stdin, os.Stdin}
	case path == "/v1/devices" && method == http.MethodPost:
		files = []*os.File{os.Stdin}
	case path == "/v1/plan", path == "/v1/migrate" && method == http.MethodPost:
		files = []*os.File{os.Stdin}
	}
	request := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
	if err := send(conn, []byte(request), files); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), answer
}
