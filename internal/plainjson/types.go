package plainjson

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// structType is what a struct's fields are called.
type structType struct{ fields []field }

type field struct {
	name  string
	index int
}

// What find returns instead of a field.
const (
	none    = -1 // there is no such field
	unusual = -2 // package json would find one, spelt another way
)

// maxFields is how many fields object can keep in mind.
const maxFields = 64

// structType studies a struct; nil: it is for package json.
func (d *decoder) structType(t reflect.Type) *structType {
	st, ok := d.types[t]
	if !ok {
		st = newStructType(t)
		d.types[t] = st
	}
	return st
}

func newStructType(t reflect.Type) *structType {
	st := new(structType)
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		if f.Anonymous {
			return nil // whose names win is a science
		}
		if !f.IsExported() || tag == "-" {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		if name == "" {
			name = f.Name
		}
		if strings.Contains(options, "string") {
			return nil
		}
		if st.find(name) != none {
			return nil
		}
		st.fields = append(st.fields, field{name, i})
	}
	if len(st.fields) > maxFields {
		return nil
	}
	return st
}

// find is the field of that name.
func (st *structType) find(name string) int {
	for i := range st.fields {
		if st.fields[i].name == name {
			return i
		}
	}
	for i := range st.fields {
		if strings.EqualFold(st.fields[i].name, name) {
			return unusual
		}
	}
	return none
}

// Kinds of types.
const (
	plain      = iota
	unmarshals // decodes itself
	strange    // has rules of its own
)

var (
	jsonType = reflect.TypeFor[json.Unmarshaler]()
	textType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// custom says whether a type decodes itself.
func (d *decoder) custom(t reflect.Type) int {
	switch p := reflect.PointerTo(t); {
	case p.NumMethod() == 0:
		return plain
	case t == reflect.TypeFor[json.Number]():
		return strange
	case p.Implements(jsonType):
		return unmarshals
	case p.Implements(textType):
		return strange
	}
	return plain
}
