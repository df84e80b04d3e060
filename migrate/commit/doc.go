// Package commit is the rule by which the right to run a machine changes
// hands: the states of both sides and what moves them, as tables
// (docs/migration-protocol.md, section 5), and the records that make the
// decisions durable.
//
// The tables are data so that two things can read them: Machine, which the
// migration engine drives, and the model check in this package's tests, which
// tries every loss, reordering and crash.
package commit
