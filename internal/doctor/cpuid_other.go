//go:build !amd64

package doctor

func hypervisorVendor() string { return "" }
