// Package cninet attaches network namespaces to CNI networks (CNI 1.1) through
// libcni, in program hvctl-net: owners know only the request and the answer of
// package hostnet. libcni caches what was added below the state root, so that
// CHECK and DEL see the configuration that ADD saw.
package cninet
