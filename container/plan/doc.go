// Package plan is what the runtime tells the process that becomes the
// container: everything that has to be done inside, with the decisions made
// and the names resolved to numbers, so that the stage (package
// container/stage) neither parses configuration nor judges it.
//
// A plan travels in one write over an inherited descriptor. Its encoding is a
// fixed walk over the fields (codec.go), the same code in both directions. The
// decoder trusts nothing: lengths are checked against what is there, numbers
// of elements are bounded, trailing bytes are an error.
//
// It imports nothing of the project and little else, because every start of
// a container pays for it twice.
package plan
