// Package doctor finds out what this host can do for hvctl: whether VMs can
// run and how fast, which devices and kernel features are there, and what to
// do about what is missing. It changes nothing.
package doctor
