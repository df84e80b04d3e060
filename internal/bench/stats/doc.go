// Package stats compares samples of targets: paired log-ratios, bootstrap
// intervals, verdicts. docs/bench-method.md has the rules and their reasons.
package stats
