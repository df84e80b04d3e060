// Package result is what a head-to-head run leaves: raw samples, one row for an
// instance and probe, and what they depend on. Figures are derived from it, never
// kept in it.
package result
