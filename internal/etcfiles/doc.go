// Package etcfiles reads and makes the files of a workload's /etc that hvctl
// has to do with: who a user is (passwd, group), and the names it resolves
// (hosts, resolv.conf, hostname). A VM's guest (cmd/hvinit) and a container's
// owner use it, so that both give the same workload the same answers.
package etcfiles
