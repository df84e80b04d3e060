// Package workloadtest has what tests of the lifecycle share: a runtime that
// runs the workload as ordinary processes of the host, without isolation, and
// the Suite that every backend passes. It is for tests only.
package workloadtest
