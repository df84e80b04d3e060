package report

import (
	"cmp"
	"slices"

	"github.com/hvctl/hvctl/internal/bench/stats"
)

// verdicts in the order of tables.
var verdicts = []stats.Verdict{stats.Slower, stats.Inconclusive, stats.Equal, stats.Faster, stats.NotMeasured}

// rank puts losses before wins.
var rank = map[stats.Verdict]int{stats.NotMeasured: 0, stats.Slower: 1, stats.Inconclusive: 2, stats.Equal: 3, stats.Faster: 4}

// tallied is how many probes of a chapter went how on a target.
type tallied struct {
	chapter, target string
	count           map[stats.Verdict]int
	all             int
}

// tally counts, in order of appearance.
func tally(rows []Row) (out []*tallied) {
	at := map[[2]string]*tallied{}
	for _, row := range rows {
		k := [2]string{row.Key.Chapter, row.Target}
		if at[k] == nil {
			at[k] = &tallied{chapter: row.Key.Chapter, target: row.Target, count: map[stats.Verdict]int{}}
			out = append(out, at[k])
		}
		at[k].count[row.Verdict]++
		at[k].all++
	}
	return out
}

// inChapter are a chapter's rows, losses before wins, and the largest losses first.
func inChapter(rows []Row, chapter string) []Row {
	of := slices.DeleteFunc(slices.Clone(rows), func(row Row) bool { return row.Key.Chapter != chapter })
	slices.SortStableFunc(of, func(x, y Row) int {
		if x.Verdict == stats.Slower && y.Verdict == stats.Slower {
			return cmp.Compare(y.Estimate.Ratio, x.Estimate.Ratio)
		}
		return cmp.Compare(rank[x.Verdict], rank[y.Verdict])
	})
	return of
}
