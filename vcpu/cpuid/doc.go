// Package cpuid decides what the CPUID instruction answers on each vCPU: what
// the host's KVM supports, changed by a table of rules, each with its reason.
// It is pure data in, data out, so that a golden test shows every difference.
//
// Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; Linux
// Documentation/virt/kvm/x86/cpuid.rst.
package cpuid
