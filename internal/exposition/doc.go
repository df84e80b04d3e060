// Package exposition writes what instances use in the text format that
// Prometheus reads (Prometheus documentation, "Exposition formats", text format
// 0.0.4). It is small on purpose: it is linked into the process that owns a VM,
// whose memory is counted.
package exposition
