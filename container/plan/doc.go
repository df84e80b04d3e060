// Package plan is what a container is to be, with the decisions made and the
// names resolved to numbers: what package container makes of a configuration,
// and package program of it the steps that do it.
package plan
