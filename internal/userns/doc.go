// Package userns finds out which users a process may be in a user namespace of
// its own, and maps them (user_namespaces(7)): its own alone, which the kernel
// lets everybody do, or with the ranges of /etc/subuid and /etc/subgid, which
// the programs newuidmap and newgidmap map for it. It also tells of the namespace
// that a process is in.
package userns
