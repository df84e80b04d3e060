// Package snapshots keeps snapshots of instances by name: a directory each, with
// the snapshot file and copies of the instance's disks. What is in the file is
// migrate/snapshot's business and package workload's (Description).
package snapshots
