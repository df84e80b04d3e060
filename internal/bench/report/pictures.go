package report

import (
	"slices"

	"github.com/hvctl/hvctl/internal/bench/plot"
	"github.com/hvctl/hvctl/internal/bench/result"
)

// pictureWidth is of half a picture.
const pictureWidth = 430

// Pictures are a run's figures as files of their own, for pages that show files:
// ratios.svg has every probe, lifecycle.svg an instance's life and its start's
// distribution. One that there are no samples for is not among them.
func Pictures(r *result.Result) (map[string]string, error) {
	x, err := newIndex(r)
	if err != nil {
		return nil, err
	}
	p := newPages(x)
	out := map[string]string{}
	rows := slices.DeleteFunc(slices.Clone(p.rows), func(row Row) bool { return row.Key.Chapter == lifecycle })
	if f := Forest(rows, r, "Every probe", pictureWidth); len(f.Groups) > 1 && len(r.Plan.Targets) > 1 {
		left, right := f, f
		half := (len(f.Groups) + 1) / 2
		left.Groups, right.Groups = f.Groups[:half], f.Groups[half:]
		out["ratios.svg"] = plot.Beside("Cost of every probe beside "+r.Base(), left.Draw(), right.Draw()).File()
	}
	stages, ok := p.stages()
	total := result.Key{Chapter: lifecycle, Probe: "total"}
	if spread, n := p.distribution(total); ok && n > 0 {
		stages.Width, spread.Width = pictureWidth, pictureWidth
		out["lifecycle.svg"] = plot.Beside("An instance's life, and how long it took to its first output", stages.Draw(), spread.Draw()).File()
	}
	return out, nil
}
