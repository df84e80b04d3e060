// Package archtest holds the dependency direction of this repository as a
// table and a test that every import follows it.
//
// A new package gets a row in layers_test.go; a new edge gets a word in its
// row. Both are decisions: write down why when the edge points somewhere new.
// The test reads the source files itself, so that the test cache notices every
// change in them (the output of a child process would be invisible to it).
package archtest
