package plainjson

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of values, far above what configurations have.
const maxDepth = 64

// Decode decodes the object b into v, a pointer to a struct that is zero, and
// says whether it did. If not, v is unchanged, and it is for package json.
func Decode(b []byte, v any) bool {
	to := reflect.ValueOf(v)
	if to.Kind() != reflect.Pointer || to.IsNil() || to.Elem().Kind() != reflect.Struct || !to.Elem().IsZero() {
		return false
	}
	d := decoder{in: b, types: map[reflect.Type]*structType{}}
	fresh := reflect.New(to.Type().Elem()).Elem()
	if d.space(); !d.value(fresh, 0) {
		return false
	}
	if d.space(); d.at != len(d.in) {
		return false
	}
	to.Elem().Set(fresh)
	return true
}

// decoder is at a place of its input. Its methods return false to give up.
type decoder struct {
	in    []byte
	at    int
	types map[reflect.Type]*structType
}

func (d *decoder) space() {
	for d.at < len(d.in) && (d.in[d.at] == ' ' || d.in[d.at] == '\n' || d.in[d.at] == '\t' || d.in[d.at] == '\r') {
		d.at++
	}
}

// peek is the next byte; 0 at the end.
func (d *decoder) peek() byte {
	if d.at < len(d.in) {
		return d.in[d.at]
	}
	return 0
}

// eat goes over c and the space around it.
func (d *decoder) eat(c byte) bool {
	d.space()
	if d.peek() != c {
		return false
	}
	d.at++
	d.space()
	return true
}

// word goes over a literal.
func (d *decoder) word(w string) bool {
	if len(d.in)-d.at < len(w) || string(d.in[d.at:d.at+len(w)]) != w {
		return false
	}
	d.at += len(w)
	return true
}

// value decodes the next value, whatever it is, into v.
func (d *decoder) value(v reflect.Value, depth int) bool {
	if depth > maxDepth {
		return false
	}
	t := v.Type()
	if t.Kind() != reflect.Pointer && t.Name() != "" && t.PkgPath() != "" {
		if st := d.custom(t); st != plain {
			return st == unmarshals && d.own(v, depth)
		}
	}
	if d.peek() == 'n' {
		switch t.Kind() {
		case reflect.Pointer, reflect.Map, reflect.Slice:
			v.SetZero()
		case reflect.Interface, reflect.Array:
			return false
		}
		return d.word("null")
	}
	switch t.Kind() {
	case reflect.Pointer:
		p := reflect.New(t.Elem())
		v.Set(p)
		return d.value(p.Elem(), depth+1)
	case reflect.Struct:
		return d.object(v, depth)
	case reflect.Map:
		return d.mapping(v, depth)
	case reflect.Slice:
		return t.Elem().Kind() != reflect.Uint8 && d.array(v, depth) // bytes are base64
	case reflect.String:
		s, ok := d.text()
		v.SetString(s)
		return ok
	case reflect.Bool:
		v.SetBool(d.peek() == 't')
		return d.word("true") || d.word("false")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(d.integer(), 10, t.Bits())
		v.SetInt(n)
		return err == nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(d.integer(), 10, t.Bits())
		v.SetUint(n)
		return err == nil
	}
	return false
}

// own has a type that decodes itself do so.
func (d *decoder) own(v reflect.Value, depth int) bool {
	from := d.at
	if d.peek() == 'n' || !d.skip(depth) {
		return false
	}
	u, ok := v.Addr().Interface().(json.Unmarshaler)
	return ok && u.UnmarshalJSON(d.in[from:d.at]) == nil
}

// object decodes a struct.
func (d *decoder) object(v reflect.Value, depth int) bool {
	st := d.structType(v.Type())
	if st == nil || !d.eat('{') {
		return false
	}
	var seen uint64
	for first := true; d.peek() != '}'; first = false {
		if !first && !d.eat(',') {
			return false
		}
		name, ok := d.text()
		if !ok || !d.eat(':') {
			return false
		}
		i := st.find(name)
		switch {
		case i == unusual:
			return false
		case i == none:
			if !d.skip(depth + 1) {
				return false
			}
		case seen&(1<<i) != 0:
			return false
		default:
			seen |= 1 << i
			if !d.value(v.Field(st.fields[i].index), depth+1) {
				return false
			}
		}
		d.space()
	}
	d.at++
	return true
}

func (d *decoder) mapping(v reflect.Value, depth int) bool {
	t := v.Type()
	if t.Key().Kind() != reflect.String || d.custom(t.Key()) != plain || !d.eat('{') {
		return false
	}
	v.Set(reflect.MakeMap(t))
	for first := true; d.peek() != '}'; first = false {
		if !first && !d.eat(',') {
			return false
		}
		key, ok := d.text()
		if !ok || !d.eat(':') {
			return false
		}
		e := reflect.New(t.Elem()).Elem()
		if !d.value(e, depth+1) {
			return false
		}
		v.SetMapIndex(reflect.ValueOf(key).Convert(t.Key()), e)
		d.space()
	}
	d.at++
	return true
}

func (d *decoder) array(v reflect.Value, depth int) bool {
	if !d.eat('[') {
		return false
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	for n := 0; d.peek() != ']'; n++ {
		if n > 0 && !d.eat(',') {
			return false
		}
		if n == v.Cap() {
			v.Grow(1)
		}
		v.SetLen(n + 1)
		v.Index(n).SetZero()
		if !d.value(v.Index(n), depth+1) {
			return false
		}
		d.space()
	}
	d.at++
	return true
}

// text decodes a string.
func (d *decoder) text() (string, bool) {
	if d.peek() != '"' {
		return "", false
	}
	escaped := false
	for i := d.at + 1; i < len(d.in); i++ {
		switch c := d.in[i]; {
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			return "", false
		case c == '"':
			token := d.in[d.at : i+1]
			d.at = i + 1
			if escaped {
				var s string
				err := json.Unmarshal(token, &s)
				return s, err == nil
			}
			token = token[1 : len(token)-1]
			return string(token), utf8.Valid(token)
		}
	}
	return "", false
}

// integer goes over a number that has neither fraction nor exponent; "" is
// none.
func (d *decoder) integer() string {
	from := d.at
	if d.peek() == '-' {
		d.at++
	}
	digits := d.at
	for c := d.peek(); c >= '0' && c <= '9'; c = d.peek() {
		d.at++
	}
	switch c := d.peek(); {
	case c == '.' || c == 'e' || c == 'E', d.at == digits, d.at-digits > 1 && d.in[digits] == '0':
		return ""
	}
	return string(d.in[from:d.at])
}

// skip goes over a value that nobody wants.
func (d *decoder) skip(depth int) bool {
	if depth > maxDepth {
		return false
	}
	switch c := d.peek(); c {
	case '{', '[':
		end := c + 2 // ASCII has them so
		d.eat(c)
		for first := true; d.peek() != end; first = false {
			if !first && !d.eat(',') {
				return false
			}
			if c == '{' {
				if _, ok := d.text(); !ok || !d.eat(':') {
					return false
				}
			}
			if !d.skip(depth + 1) {
				return false
			}
			d.space()
		}
		d.at++
		return true
	case '"':
		_, ok := d.text()
		return ok
	case 't':
		return d.word("true")
	case 'f':
		return d.word("false")
	case 'n':
		return d.word("null")
	}
	return d.number()
}

// number goes over any number.
func (d *decoder) number() bool {
	from := d.at
	for d.at < len(d.in) && strings.IndexByte("+-.eE0123456789", d.in[d.at]) >= 0 {
		d.at++
	}
	return json.Valid(d.in[from:d.at])
}
