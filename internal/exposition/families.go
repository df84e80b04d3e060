package exposition

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// family is all series of one name.
type family struct {
	kind, help string
	lines      []string
}

// families are what is written, by name. A name's series stay together, whatever
// instance they are of, as the format wants.
type families map[string]*family

// label is a name and a value that is not escaped yet.
type label struct{ name, value string }

// escape quotes a label's value.
var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (f families) family(name, kind, help string) *family {
	if f[name] == nil {
		f[name] = &family{kind: kind, help: help}
	}
	return f[name]
}

// add adds one series. kind is that of its name.
func (f families) add(name, kind, help string, value float64, labels ...label) {
	f.family(name, kind, help).line(name, value, labels)
}

func (y *family) line(name string, value float64, labels []label) {
	var b strings.Builder
	b.WriteString(name)
	for i, l := range labels {
		b.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(&b, `%s="%s"`, l.name, escape.Replace(l.value))
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	b.WriteByte(' ')
	b.WriteString(strconv.FormatFloat(value, 'g', -1, 64))
	y.lines = append(y.lines, b.String())
}

// histogram adds the series of one histogram; counts[i] has what was below
// 2^i microseconds and not counted before.
func (f families) histogram(name, help string, counts []uint64, sumNs uint64, labels ...label) {
	y := f.family(name, "histogram", help)
	sum := uint64(0)
	le := func(v string) []label { return append(slices.Clone(labels), label{"le", v}) }
	for i, n := range counts {
		sum += n
		if i < len(counts)-1 { // the last bucket has no bound
			y.line(name+"_bucket", float64(sum), le(strconv.FormatFloat(float64(uint64(1)<<(i&63))/1e6, 'g', -1, 64)))
		}
	}
	y.line(name+"_bucket", float64(sum), le("+Inf"))
	y.line(name+"_sum", float64(sumNs)/1e9, labels)
	y.line(name+"_count", float64(sum), labels)
}

// write writes everything, sorted by name.
func (f families) write(w io.Writer) error {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		y := f[name]
		if _, err := fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s\n", name, y.help, name, y.kind, strings.Join(y.lines, "\n")); err != nil {
			return err
		}
	}
	return nil
}
