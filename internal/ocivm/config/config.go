// Package config is what the owner of a bundle's VM is told (package ocivm). It
// is apart from that package since hvctl-oci, which passes it on, links little.
package config

import "github.com/hvctl/hvctl/internal/workload"

// Config is what the owner is told.
type Config struct {
	workload.Config
	// Adopt says that the container has a network of its own, whose interface is
	// the guest's.
	Adopt bool `json:"adoptNetwork"`
}
