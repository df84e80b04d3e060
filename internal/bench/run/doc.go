// Package run makes head-to-head runs: fresh instances of the same image on
// several targets, in blocks, in ABBA order, each running the probes of package
// probe. Every sample is kept. docs/bench-method.md says why it is done so.
package run
