// Package probe is what hvctl bench runs inside an instance: small operations,
// timed in batches, each defined after a known benchmark. The program hvbench
// prints their results as JSON lines.
//
// Go cannot fork or make threads without its runtime's preparations, so these
// probes use raw system calls, and assembly where a child shares our memory.
package probe
