// Package e2e holds the tests that use hvctl as its users do: the programs in
// bin/, real guest kernels, real images. They run in the test host (tier
// "guest"). There is no code here but tests.
package e2e
