// Package plan says before a migration what will happen to every resource the
// workload is bound to: how it is bound, what is done with it, and whether that
// is refused. It has no effects and knows no machine: the source lists its
// resources, the destination its facts, and Make joins them by the rules in
// rules.go (docs/migration-protocol.md, section 9).
//
// The terms are those of Fuggetta, Picco and Vigna, "Understanding Code
// Mobility" (1998): a resource is bound by identifier, by value or by type, and
// attached to its host not at all, loosely, or for good.
package plan
