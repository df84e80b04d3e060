package moves

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// WriteTable prints the history for people.
func (h History) WriteTable(w io.Writer) error {
	if len(h.Records) == 0 && h.Attempt == nil {
		_, err := fmt.Fprintf(w, "%s: no migration is on record\n", h.Name)
		return err
	}
	fmt.Fprintf(w, "%s (%s)\n", h.Name, h.Instance)
	if err := writeRecords(w, h.Records); err != nil {
		return err
	}
	if h.Now != nil {
		fmt.Fprintf(w, "\nnow: %s\n", h.Now.State)
	}
	a := h.Attempt
	if a == nil {
		return nil
	}
	how := "not ended, or its owner was killed"
	if !a.Ended.IsZero() {
		how = fmt.Sprintf("ended after %v", a.Ended.Sub(a.Began).Round(time.Millisecond))
	}
	fmt.Fprintf(w, "\nlatest attempt: to %s, begun %s, %s\n", clean(a.To), stamp(a.Began), how)
	if a.Error != "" {
		fmt.Fprintf(w, "error: %s\n", clean(a.Error))
	}
	if len(a.Plan.Rows) > 0 {
		fmt.Fprintln(w)
		if err := a.Plan.WriteTable(w); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	return a.Report.WriteTable(w)
}

func writeRecords(w io.Writer, records []Entry) error {
	if len(records) == 0 {
		_, err := fmt.Fprintln(w, "no right to run it was ever given away or taken: it has been this instance's throughout")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SIDE\tSESSION\tEPOCH\tRECORD\tWRITTEN\tPEER\tMEANS")
	for _, e := range records {
		if e.Error != "" {
			fmt.Fprintf(t, "%s\t-\t-\tunreadable\t-\t-\t%s\n", e.Role, clean(e.Error))
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", e.Role, clean(e.Session), e.Epoch, e.Verdict, stamp(e.At), cmp.Or(clean(e.Peer), "-"), e.Means)
	}
	return t.Flush()
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// clean makes words that may be a peer's fit for a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}
