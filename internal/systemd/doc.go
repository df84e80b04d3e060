// Package systemd says how a container's cgroup is made by systemd: as a scope,
// a unit for processes that systemd has not started itself, in a slice
// (systemd.scope(5), systemd.slice(5)). Such a cgroup is delegated to us
// (systemd's CGROUP_DELEGATION document): we may do with it and below it what
// we like, but systemd writes its limits again whenever it reloads its units.
// Therefore it is told of them, as properties of the unit.
//
// Package bus speaks to systemd; only programs that have to link that.
package systemd
