// Package lazy restores a guest's memory from a snapshot file while the guest
// runs: a page is read when somebody first touches it, and its checksum is checked
// then, which a mapping of the file cannot do. What the first restore of a
// snapshot touched is noted beside the file, and read ahead by later ones.
//
// The faults are served by a process of their own (Serve), since a Go program
// cannot serve its own (package uffd). The owner (Filler) keeps the userfaultfd
// open: a page that cannot be had is never read as zero, whoever dies. A handler
// that was killed is replaced by another; a file that is broken ends the guest,
// with a reason.
package lazy
