// Package config is what the owner of a bundle's VM is told (package ocivm). It
// is apart from that package since hvctl-oci, which passes it on, links little.
package config

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/hvctl/hvctl/internal/guestproto"
	"github.com/hvctl/hvctl/internal/workload"
)

// Config is what the owner is told.
type Config struct {
	workload.Config
	// Adopt says that the container has a network of its own, whose interface is
	// the guest's.
	Adopt bool `json:"adoptNetwork"`
}

// Member is what the owner of a pod's VM is told of a container.
type Member struct {
	Spec      *specs.Spec       `json:"spec"` // what is carried out in the guest
	Limits    guestproto.Limits `json:"limits,omitzero"`
	SharePIDs bool              `json:"sharePIDs,omitempty"` // with the pod's others
}
