package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxConfig bounds config.json.
const maxConfig = 4 << 20

// Load reads and validates the config.json of a bundle. It also returns the
// bytes, which are what the container was made from whatever becomes of the
// file. Errors wrap ErrConfig, or are about reading the file.
func Load(bundle string) (*specs.Spec, []byte, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, nil, fmt.Errorf("bundle %s: %w", bundle, err)
	}
	defer f.Close()
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
	s := new(specs.Spec)
	if err := ParseJSON(b, s); err != nil {
		return nil, configError{err}
	}
	return s, nil
}

// ParseJSON decodes one value and says where it is wrong.
func ParseJSON(b []byte, v any) error {
	if len(b) > maxConfig {
		return fmt.Errorf("larger than %d bytes", maxConfig)
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
