// Package gdbstub serves gdb's remote serial protocol for a virtual machine: a
// debugger on a socket sees the vCPUs as threads of one process, whose memory
// is what each vCPU's page tables map.
//
// All-stop mode, x86-64 registers whatever mode the guest is in, software and
// hardware breakpoints, watchpoints, single steps. One client at a time. The
// client may do what it wants with the guest, and nothing with this process:
// packets are bounded, and nothing is allocated by a number in one.
//
// The protocol is documented in appendix E of gdb's manual.
package gdbstub
