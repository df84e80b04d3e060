package migrate

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// RoundReport is what one round of copying did.
type RoundReport struct {
	Pages     uint64        `json:"pages"`           // sent with their bytes
	Duplicate uint64        `json:"duplicate_pages"` // of those, the ones that had been sent before
	Zero      uint64        `json:"zero_pages"`      // sent as zero: they had other bytes before
	Skipped   uint64        `json:"skipped_pages"`   // zero from the start: not sent
	Bytes     uint64        `json:"bytes"`           // on the wire
	Unpacked  uint64        `json:"unpacked_bytes"`  // the same before compression, headers included
	Duration  time.Duration `json:"duration_ns"`
	Bandwidth float64       `json:"bandwidth_bytes_per_s"` // of bytes before compression
	Dirty     uint64        `json:"dirty_pages"`           // that the guest wrote meanwhile
	Expected  time.Duration `json:"expected_blackout_ns"`
	Throttle  int           `json:"throttle_percent,omitempty"`
}

// Blackout is the time in which the guest did not run, by parts.
type Blackout struct {
	Pause  time.Duration `json:"pause_ns"`  // vCPUs out, devices quiet
	Pages  time.Duration `json:"pages_ns"`  // last pages sent
	State  time.Duration `json:"state_ns"`  // saved and sent
	Load   time.Duration `json:"load_ns"`   // until READY: the destination applied and loaded
	Commit time.Duration `json:"commit_ns"` // until RUNNING: records, locks, resume
	Total  time.Duration `json:"total_ns"`
}

// Report says what a migration did, on the source's side.
type Report struct {
	Session    string        `json:"session"`
	Outcome    string        `json:"outcome"` // handed, kept, in-doubt
	Reason     string        `json:"reason,omitempty"`
	Streams    int           `json:"streams"`
	RAM        uint64        `json:"ram_bytes"`
	Disks      uint64        `json:"disk_bytes,omitempty"`
	Image      uint64        `json:"image_bytes,omitempty"`    // carried along before, which the totals leave out
	Layer      uint64        `json:"layer_bytes,omitempty"`    // the packed writable layer of a workload that is started afresh
	StoodStill time.Duration `json:"stood_still_ns,omitempty"` // and for how long it did not run, until it was started there
	Holes      uint64        `json:"hole_pages"`               // never looked at
	Rounds     []RoundReport `json:"rounds"`
	Final      RoundReport   `json:"final"`
	StateBytes uint64        `json:"state_bytes"`
	Reconnects int           `json:"reconnects"`
	Again      uint64        `json:"pages_sent_again"` // because a link broke
	RTT        time.Duration `json:"rtt_ns"`
	Total      time.Duration `json:"total_ns"`
	Blackout   Blackout      `json:"blackout"`
	PostCopy   *PostCopy     `json:"postcopy,omitempty"` // nil when nothing followed later
	// GuestGap is for how long the guest did not run by its own clock, to 2
	// ms, from the first round until it was reached again: also for lack of a
	// processor, or because its memory had to be mapped anew. 0 is not known.
	GuestGap time.Duration `json:"guest_gap_ns,omitempty"`
	// ProbeGap is for how long somebody who connects from outside was not answered;
	// 0 is not known.
	ProbeGap time.Duration `json:"probe_gap_ns,omitempty"`
	// The bounds: no migration over these sockets can be faster.
	BoundTotal    time.Duration `json:"bound_total_ns"`
	BoundBlackout time.Duration `json:"bound_blackout_ns"`
}

// add counts y's pages and bytes in.
func (x *RoundReport) add(y RoundReport) {
	x.Pages += y.Pages
	x.Duplicate += y.Duplicate
	x.Zero += y.Zero
	x.Skipped += y.Skipped
	x.Bytes += y.Bytes
	x.Unpacked += y.Unpacked
}

// bytes returns what all rounds sent.
func (r *Report) bytes() (n uint64) {
	for _, x := range r.Rounds {
		n += x.Bytes
	}
	return n + r.Final.Bytes + r.StateBytes
}

// unpacked returns the same before compression, headers included.
func (r *Report) unpacked() (n uint64) {
	for _, x := range r.Rounds {
		n += x.Unpacked
	}
	return n + r.Final.Unpacked + r.StateBytes
}

// WriteTable prints the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "round\tpages\tagain\tzero\tbytes\tunpacked\ttime\tMiB/s\tdirtied\texpected blackout\t")
	row := func(name string, x RoundReport) {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%v\t%.0f\t%d\t%v\t\n", name, x.Pages, x.Duplicate, x.Zero, x.Bytes, x.Unpacked,
			x.Duration.Round(time.Microsecond), x.Bandwidth/(1<<20), x.Dirty, x.Expected.Round(time.Microsecond))
	}
	for i, x := range r.Rounds {
		row(fmt.Sprint(i), x)
	}
	if r.Blackout.Total > 0 {
		row("last", r.Final)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	us := time.Microsecond
	b := r.Blackout
	_, err := fmt.Fprintf(w, `outcome %s %s
total %v (bound %v), %d bytes (%d before compression) over %d streams, %d holes skipped, %d reconnects, %d pages sent again
blackout %v (bound %v): pause %v, pages %v, state %v, load %v, commit %v
`, r.Outcome, r.Reason, r.Total.Round(us), r.BoundTotal.Round(us), r.bytes(), r.unpacked(), r.Streams, r.Holes, r.Reconnects, r.Again,
		b.Total.Round(us), r.BoundBlackout.Round(us), b.Pause.Round(us), b.Pages.Round(us), b.State.Round(us), b.Load.Round(us), b.Commit.Round(us))
	if err == nil && r.Image > 0 {
		_, err = fmt.Fprintf(w, "before that, %d bytes of the image were carried along\n", r.Image)
	}
	if err == nil && r.StoodStill > 0 {
		_, err = fmt.Fprintf(w, "started afresh: it stood still for %v, a writable layer of %d bytes went along\n", r.StoodStill.Round(us), r.Layer)
	}
	if err == nil && r.PostCopy != nil {
		err = r.PostCopy.write(w)
	}
	if err != nil || b.Total == 0 {
		return err
	}
	said := func(d time.Duration) string {
		if d == 0 {
			return "not known"
		}
		return d.Round(us).String()
	}
	_, err = fmt.Fprintf(w, "stood still: by this side's account %v, by the guest's clock %s, seen from outside %s\n", b.Total.Round(us), said(r.GuestGap), said(r.ProbeGap))
	return err
}
