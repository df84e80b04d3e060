// Package legacy holds the few PC devices that a Linux kernel still looks for
// on a machine without legacy hardware: a 16550A serial port for early
// console output, and the keyboard controller's reset line that reboot=k
// pulls.
//
// Every device is a bus.Handler for a range of I/O ports. None of them imports
// kvm; an interrupt is a callback.
package legacy
