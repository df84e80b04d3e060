// This file is empty on purpose: it lets fork_unsafe.go declare functions
// without a body, which the linker finds in package runtime.
