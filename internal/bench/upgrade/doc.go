// Package upgrade measures for how long a guest stands still when it goes on in
// another process on the same host (package handoff): a guest of a few
// instructions, with memory that has content, between two real processes.
package upgrade
