package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hvctl/hvctl/internal/plainjson"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxConfig bounds config.json.
const maxConfig = 4 << 20

// Load reads and validates the config.json of a bundle. It also returns the
// bytes, which are what the container was made from whatever becomes of the
// file. Errors wrap ErrConfig, or are about reading the file.
func Load(bundle string) (*specs.Spec, []byte, error) {
	// Nobody may have the other end of a pipe: it is opened without waiting, and refused.
	f, err := os.OpenFile(filepath.Join(bundle, "config.json"), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("bundle %s: %w", bundle, err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("bundle %s: config.json is no regular file", bundle)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, nil, fmt.Errorf("bundle %s: %w", bundle, err)
	}
	s, err := Parse(b)
	if err != nil {
		return nil, nil, err
	}
	return s, b, Validate(s)
}

// Parse decodes a configuration. Unknown properties are passed over, as the
// specification demands (config.md, "Extensibility"); everything else is
// strict. Errors wrap ErrConfig.
func Parse(b []byte) (*specs.Spec, error) {
	var c config
	if err := ParseJSON(b, &c); err != nil {
		return nil, configError{err}
	}
	s := &specs.Spec{
		Version: c.Version, Process: c.Process, Root: c.Root, Hostname: c.Hostname, Domainname: c.Domainname, Mounts: c.Mounts,
		Hooks: c.Hooks, Annotations: c.Annotations, Linux: c.Linux,
	}
	for _, f := range []struct {
		name string
		raw  json.RawMessage
		to   any
	}{
		{"solaris", c.Solaris, &s.Solaris},
		{"windows", c.Windows, &s.Windows},
		{"vm", c.VM, &s.VM},
		{"zos", c.ZOS, &s.ZOS},
		{"freebsd", c.FreeBSD, &s.FreeBSD},
	} {
		if len(f.raw) == 0 {
			continue
		}
		if err := ParseJSON(f.raw, f.to); err != nil {
			return nil, configError{fmt.Errorf("%s: %w", f.name, err)}
		}
	}
	return s, nil
}

// config is specs.Spec with the sections put off that are for others: where
// package json has to decode it, it studies every type that it might meet,
// which takes longer than all the decoding.
type config struct {
	Version     string            `json:"ociVersion"`
	Process     *specs.Process    `json:"process"`
	Root        *specs.Root       `json:"root"`
	Hostname    string            `json:"hostname"`
	Domainname  string            `json:"domainname"`
	Mounts      []specs.Mount     `json:"mounts"`
	Hooks       *specs.Hooks      `json:"hooks"`
	Annotations map[string]string `json:"annotations"`
	Linux       *specs.Linux      `json:"linux"`
	Solaris     json.RawMessage   `json:"solaris"`
	Windows     json.RawMessage   `json:"windows"`
	VM          json.RawMessage   `json:"vm"`
	ZOS         json.RawMessage   `json:"zos"`
	FreeBSD     json.RawMessage   `json:"freebsd"`
}

// ParseJSON decodes one value and says where it is wrong.
func ParseJSON(b []byte, v any) error {
	if len(b) > maxConfig {
		return fmt.Errorf("larger than %d bytes", maxConfig)
	}
	if plainjson.Decode(b, v) {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	err := d.Decode(v)
	if err == nil && d.More() {
		err = errors.New("something follows the value")
	}
	if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		field := te.Field
		if field == "" {
			field = "the whole"
		}
		return &FieldError{Field: field, Reason: fmt.Sprintf("a JSON %s does not fit, want %s", te.Value, te.Type)}
	}
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("byte %d: %w", se.Offset, err)
	}
	return err
}
