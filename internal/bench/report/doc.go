// Package report turns results into words and tables: what the samples say of
// each target beside the base, by the rules of docs/bench-method.md. Everything
// in it is recomputed from the samples.
package report
